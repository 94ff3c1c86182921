//! Quantities as people and other systems write them: `300`, `"5m"`; `0.5`, `"500m"`; `"512Mi"`.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::openapi::quantity;

/// A number, or text.
enum Written {
    Number(f64),
    Text(String),
}

impl Written {
    fn read<'de, D: Deserializer<'de>>(
        deserializer: D,
        expecting: &'static str,
    ) -> Result<Self, D::Error> {
        struct Either(&'static str);
        impl Visitor<'_> for Either {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }

            fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
                Ok(Written::Number(number))
            }

            // Whoever writes a number of more than 53 bits is beyond every bound.
            #[expect(clippy::cast_precision_loss)]
            fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
                Ok(Written::Number(number as f64))
            }

            #[expect(clippy::cast_precision_loss)]
            fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
                Ok(Written::Number(number as f64))
            }

            fn visit_str<E>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Text(text.trim().to_owned()))
            }
        }
        deserializer.deserialize_any(Either(expecting))
    }
}

/// A duration: seconds, or text as `"5m"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::web) struct Seconds(pub(in crate::web) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a number of seconds, or text such as \"5m\"";
        let seconds = |number: f64| Duration::try_from_secs_f64(number).ok();
        let duration = match Written::read(deserializer, expecting)? {
            Written::Number(number) => seconds(number),
            Written::Text(text) => match text.parse() {
                Ok(number) => seconds(number),
                Err(_) => humantime::parse_duration(&text).ok(),
            },
        };
        duration
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("must be {expecting}")))
    }
}

/// CPUs: a number, or text as `"500m"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::web) struct Cpus(pub(in crate::web) f64);

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a number of CPUs, or text such as \"500m\"";
        let cpus = match Written::read(deserializer, expecting)? {
            Written::Number(number) => Some(number),
            Written::Text(text) => match text.strip_suffix('m') {
                Some(thousandths) => thousandths.parse().ok().map(|t: f64| t / 1000.0),
                None => text.parse().ok(),
            },
        };
        cpus.filter(|cpus| cpus.is_finite())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("must be {expecting}")))
    }
}

/// Memory: bytes, or text as `"512Mi"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::web) struct Memory(pub(in crate::web) u64);

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a number of bytes, or text such as \"512Mi\"";
        let bytes = match Written::read(deserializer, expecting)? {
            Written::Number(number) => whole(number),
            Written::Text(text) => text.parse().ok().map(|size: ByteSize| size.as_u64()),
        };
        bytes
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("must be {expecting}")))
    }
}

/// Memory: a number of MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::web) struct Mebibytes(pub(in crate::web) u64);

impl<'de> Deserialize<'de> for Mebibytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a number of MiB";
        let mib = match Written::read(deserializer, expecting)? {
            Written::Number(number) => Some(number),
            Written::Text(text) => text.parse().ok(),
        };
        mib.and_then(|mib| whole(mib * 1_048_576.0))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("must be {expecting}")))
    }
}

quantity!(Seconds, "Seconds, or text as \"5m\"", 300);
quantity!(Cpus, "CPUs, or text as \"500m\"", 0.5);
quantity!(Memory, "Bytes, or text as \"512Mi\"", "512Mi");
quantity!(Mebibytes, "MiB", 512);

/// Bytes; the largest possible number for what is more.
fn whole(bytes: f64) -> Option<u64> {
    // Saturates.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (bytes >= 0.0).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn quantities_are_read_as_they_are_written() {
        let seconds = |text| read(text).map(|Seconds(d)| d.as_millis());
        assert_eq!(seconds("300"), Some(300_000));
        assert_eq!(seconds("1.5"), Some(1500));
        assert_eq!(seconds("\"5m\""), Some(300_000));
        assert_eq!(seconds("\"300\""), Some(300_000));
        for wrong in ["-1", "\"soon\"", "true", "1e300", "\"NaN\"", "\"\""] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
        let cpus = |text| read(text).map(|Cpus(cpus)| cpus);
        assert_eq!(cpus("\"500m\""), Some(0.5));
        assert_eq!(cpus("2"), Some(2.0));
        assert_eq!(cpus("\"1.5\""), Some(1.5));
        assert_eq!(cpus("\"inf\""), None);
        assert_eq!(cpus("\"m\""), None);
        let memory = |text| read(text).map(|Memory(bytes)| bytes);
        assert_eq!(memory("\"512Mi\""), Some(512 << 20));
        assert_eq!(memory("\"1GiB\""), Some(1 << 30));
        assert_eq!(memory("\"256M\""), Some(256_000_000));
        assert_eq!(memory("1048576"), Some(1 << 20));
        assert_eq!(memory("1e300"), Some(u64::MAX));
        assert_eq!(memory("-1"), None);
        assert_eq!(read("512").map(|Mebibytes(b)| b), Some(512 << 20));
        assert_eq!(read("\"512\"").map(|Mebibytes(b)| b), Some(512 << 20));
    }
}
