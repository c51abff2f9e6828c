"""The command line: how arguments are read, and one file per command. No file imports torch before there is work to do."""
