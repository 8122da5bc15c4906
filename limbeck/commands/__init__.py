"""The commands of `limbeck`, one file per group. `limbeck.command` puts them together."""
