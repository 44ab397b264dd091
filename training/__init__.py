"""How the bundled nano model was trained; not installed with the package."""
