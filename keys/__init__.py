"""Provisioning: keys made at each site, a roster signed offline, all of it in files that keep a secret."""
