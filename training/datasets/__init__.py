"""Where rainy and clean images come from: published pairs, and rain synthesised on clean photographs."""
