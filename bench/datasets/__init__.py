"""The data sets that come with gatebench, one family a file."""
