# The pinned environment with all programs. docs/install.md says how to build and run it.
FROM python:3.11-slim-bookworm

# OpenCV needs libGL and glib. Triton compiles its kernels with gcc.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 make \
    && rm -rf /var/lib/apt/lists/*

# The environment (6 GB) comes first, so that a change of the code does not build it again.
WORKDIR /opt/sar
COPY Makefile LICENSE pyproject.toml setup.cfg requirements*.lock ./
COPY projects/SAR/sar/__init__.py projects/SAR/sar/
RUN PIP_NO_CACHE_DIR=1 make setup

COPY README.md train_net.py ./
COPY configs configs
COPY tools tools
COPY projects projects
ENV PATH=/opt/sar/.venv/bin:$PATH

# `--user` of docker run may be a user without a name and a home folder.
ENV HOME=/tmp LOGNAME=user
# Mount the folder with your data here. Results and downloaded weights are written here too.
WORKDIR /workspace
ENV FVCORE_CACHE=/workspace/.cache
CMD ["sar-train", "--help"]
