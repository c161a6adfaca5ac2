//! Atomic numbers between whose operations another fiber may have its turn. They are sequentially
//! consistent, whatever ordering is asked for.

use std::sync::atomic as real;
pub use std::sync::atomic::{Ordering, fence};

use super::fibers;

macro_rules! number {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        pub struct $name(real::$name);

        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $value {
                fibers::rare_point();
                self.0.load(order)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                fibers::rare_point();
                self.0.store(value, order);
            }

            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                fibers::rare_point();
                self.0.fetch_add(value, order)
            }

            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                fibers::rare_point();
                self.0.fetch_sub(value, order)
            }

            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                fibers::rare_point();
                self.0.fetch_or(value, order)
            }

            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                fibers::rare_point();
                self.0.fetch_and(value, order)
            }

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                fibers::rare_point();
                self.0.compare_exchange(current, new, success, failure)
            }

            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    };
}

number!(AtomicU8, u8);
number!(AtomicU64, u64);
