"""The models in one HTML file that runs them in a browser, without a server."""
