"""Train methods with several seeds on several data sets, and compare them on a page."""
