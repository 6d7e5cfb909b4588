"""Train methods with several seeds on several data sets, and write a page that compares them."""
