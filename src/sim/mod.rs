//! A stand-in for HubSpot
