//! OTLP in protobuf, read where it lies.
//!
//! Decoding such a message into structs takes up to two hundred times its size: a span can be two bytes long on the wire.
//! So nothing is decoded that is not counted. The walk below looks at slices of the body, copies a name and a message
//! per server span, and never holds more than one span.
//!
//! Field numbers are those of `opentelemetry/proto/trace/v1/trace.proto`; a test reads what the published messages write.

use super::{Read, Reader, Told};

/// A body that is no such message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

/// One field's value.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Garbled> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Garbled)?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(self.array()?))),
            _ => return Err(Garbled),
        };
        match key >> 3 {
            0 => Err(Garbled),
            field => Ok(Some((field, value))),
        }
    }

    fn varint(&mut self) -> Result<u64, Garbled> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Garbled)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Garbled> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Garbled)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbled> {
        self.take(N)?.try_into().map_err(|_| Garbled)
    }
}

/// Calls `each` with every field that holds bytes and has this number.
fn each_bytes<'a>(
    message: &'a [u8],
    number: u64,
    mut each: impl FnMut(&'a [u8]) -> Result<(), Garbled>,
) -> Result<(), Garbled> {
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        if let (true, Value::Bytes(bytes)) = (field == number, value) {
            each(bytes)?;
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, Garbled> {
    std::str::from_utf8(bytes).map_err(|_| Garbled)
}

/// Reads an `ExportTraceServiceRequest`.
pub(super) fn request(body: &[u8], reader: &mut impl Reader) -> Result<(), Garbled> {
    each_bytes(body, 1, |resource_spans| {
        // The resource may come after its spans.
        reader.begin();
        each_bytes(resource_spans, 1, |resource| {
            each_bytes(resource, 1, |attribute| {
                let (key, value) = key_value(attribute)?;
                reader.resource(key, &value);
                Ok(())
            })
        })?;
        reader.spans();
        each_bytes(resource_spans, 2, |scope_spans| {
            each_bytes(scope_spans, 2, |span| {
                let read = self::span(span)?;
                reader.span(read);
                Ok(())
            })
        })
    })
}

/// How many spans there are, without looking into them.
pub(super) fn count(body: &[u8]) -> Result<u64, Garbled> {
    let mut count = 0;
    each_bytes(body, 1, |resource_spans| {
        each_bytes(resource_spans, 2, |scope_spans| {
            each_bytes(scope_spans, 2, |_| {
                count += 1;
                Ok(())
            })
        })
    })?;
    Ok(count)
}

fn span(message: &[u8]) -> Result<Read<'_>, Garbled> {
    let mut read = Read::default();
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(id)) => read.trace = id.try_into().ok(),
            (5, Value::Bytes(name)) => read.name = text(name)?.into(),
            (6, Value::Number(kind)) => read.kind = kind,
            (7, Value::Number(start)) => read.start = start,
            (8, Value::Number(end)) => read.end = end,
            (9, Value::Bytes(attribute)) => {
                let (key, value) = key_value(attribute)?;
                read.attribute(key, value);
            }
            (11, Value::Bytes(event)) => self::event(event, &mut read)?,
            (15, Value::Bytes(status)) => self::status(status, &mut read)?,
            _ => {}
        }
    }
    Ok(read)
}

fn event<'a>(message: &'a [u8], read: &mut Read<'a>) -> Result<(), Garbled> {
    let mut is_exception = false;
    each_bytes(message, 2, |name| {
        is_exception |= name == b"exception";
        Ok(())
    })?;
    if !is_exception {
        return Ok(());
    }
    each_bytes(message, 3, |attribute| {
        let (key, value) = key_value(attribute)?;
        read.exception(key, value);
        Ok(())
    })
}

fn status<'a>(message: &'a [u8], read: &mut Read<'a>) -> Result<(), Garbled> {
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (2, Value::Bytes(words)) => read.status_message = text(words)?.into(),
            (3, Value::Number(code)) => read.status = code,
            _ => {}
        }
    }
    Ok(())
}

/// A key and a plain value; lists and maps are not looked into.
fn key_value(message: &[u8]) -> Result<(&str, Told<'_>), Garbled> {
    let (mut key, mut told) = ("", Told::Nothing);
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(bytes)) => key = text(bytes)?,
            (2, Value::Bytes(any)) => {
                let mut any = Fields(any);
                while let Some((field, value)) = any.next()? {
                    match (field, value) {
                        (1, Value::Bytes(bytes)) => told = Told::Text(text(bytes)?.into()),
                        (3, Value::Number(number)) => told = Told::Number(number.cast_signed()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok((key, told))
}
