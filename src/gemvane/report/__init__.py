"""Reports: what a folder of results says, as one HTML file that opens anywhere and loads nothing."""
