use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Config;

/// How many of something there are, in all and by the address they come from: no more than connections may be.
pub(crate) struct Census {
    most: usize,
    most_each: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One that is counted until it is dropped.
pub(crate) struct Place {
    census: Arc<Census>,
    address: IpAddr,
}

impl Census {
    pub fn new(config: &Config) -> Self {
        Self {
            most: config.connections_max,
            most_each: config.connections_per_address_max,
            open: Mutex::default(),
        }
    }

    /// Counts one more, unless there are too many.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let each = open.by_address.get(&address).copied().unwrap_or(0);
        if open.all >= self.most || each >= self.most_each {
            return None;
        }
        open.all += 1;
        open.by_address.insert(address, each + 1);
        Some(Place { census: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.census.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(each) = open.by_address.get_mut(&self.address) {
            *each -= 1;
            if *each == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}
