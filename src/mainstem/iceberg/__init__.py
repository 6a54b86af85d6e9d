"""What our writers of Iceberg tables share, the archive's (`lake`) and the warehouse's: catalogs, commits, upkeep."""
