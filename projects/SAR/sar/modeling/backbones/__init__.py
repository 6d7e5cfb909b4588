"""Backbones that detectron2 lacks (MODEL.BACKBONE.NAME)."""
