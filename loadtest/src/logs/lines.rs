use std::fmt::Write;

/// The text of a line: as long as asked for, and no two alike.
pub fn text(execution: u64, line: u64, chars: usize) -> String {
    // Any mixing of the bits will do: the numbers in it should not compress.
    let noise = (execution << 20 ^ line).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = format!("step {line} of {execution}: loss 0.{:06}", noise % 1_000_000);
    let mut rest = noise;
    while text.len() < chars {
        rest = rest.rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        // It is a String: this cannot fail.
        let _ = write!(text, " w{:05}", rest % 100_000);
    }
    text.truncate(chars);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_long_as_asked_for_and_no_other() {
        assert_eq!(text(7, 1, 60).len(), 60);
        assert_ne!(text(7, 1, 60), text(7, 2, 60));
        assert_ne!(text(7, 1, 60), text(8, 1, 60));
    }
}
