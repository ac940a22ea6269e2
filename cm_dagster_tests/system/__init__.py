"""Tests with the real webserver, daemon, code server, BPS, Butler and WMS, as a pilot uses them."""
