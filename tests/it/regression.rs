//! One test per bug, named and linked to what taught it: our commit, or the thread that notes/style.md cites.
