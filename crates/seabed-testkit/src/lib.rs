//! seabed-testkit
