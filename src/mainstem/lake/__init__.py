"""The archive: every event, losslessly, in files; written exactly once (`plan`), read back for replay (`reader`)."""
