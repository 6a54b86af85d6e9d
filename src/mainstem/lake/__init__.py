"""The archive: every event, losslessly, in files; exactly once (`bulk.plan`), read back for replay (`reader`)."""
