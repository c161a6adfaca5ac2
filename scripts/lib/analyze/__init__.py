"""What scripts/analyze_migration.py is made of; `whimbrel analyze` (src/analyze/) does the same, and a test compares the two.

| module | what is in it |
|---|---|
| source | the file, read once; one message of it |
| grammar | the stream's description of itself, understood, and values read by it |
| pages | RAM blocks, and which pages came |
| extract | RAM and states as files |
| walk | from message to message |
| text | what was found, for people |
"""
