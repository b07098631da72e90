//! seabed
