"""Many variables: what holds them and under which path, modules, transactions, snapshots."""
