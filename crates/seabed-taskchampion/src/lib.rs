//! seabed-taskchampion
