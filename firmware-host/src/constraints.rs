//! What stands in the way of learning now: Android's vocabulary of constraints over the readings.
