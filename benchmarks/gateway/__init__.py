"""``promptsmith serve`` beside other gateways on one machine: ``python -m benchmarks.gateway``."""
