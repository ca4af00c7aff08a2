"""Where files come from: the hub, wheels and npm packages."""
