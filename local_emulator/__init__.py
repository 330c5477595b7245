"""The whole of Rowdock on one machine: database, object store, functions, schedules and one port."""
