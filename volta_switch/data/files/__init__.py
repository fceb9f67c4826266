"""What feature files of several formats have in common, read and written without trust in what they say."""
