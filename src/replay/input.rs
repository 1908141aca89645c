//! Where lines come from: a file or standard input, packed or not, with a bar on a terminal.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};

const BUFFER: usize = 1 << 18;
/// A longer line is no line of a log.
const LONGEST: usize = 1 << 20;

/// The lines of a log.
pub(super) struct Input {
    from: Box<dyn BufRead>,
    bar: ProgressBar,
    line: Vec<u8>,
}

impl Input {
    /// Opens a file, or standard input for `-`. What begins as gzip does is unpacked.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (raw, bar): (Box<dyn Read>, _) = if path == Path::new("-") {
            (Box::new(io::stdin()), ProgressBar::new_spinner())
        } else {
            let file = File::open(path)?;
            if file.metadata()?.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let bar = ProgressBar::new(file.metadata()?.len());
            let style = "{bar:40} {percent} %, {bytes} of {total_bytes}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            (Box::new(file), bar)
        };
        let mut raw = BufReader::with_capacity(BUFFER, bar.wrap_read(raw));
        let from: Box<dyn BufRead> = if raw.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        Ok(Self {
            from,
            bar,
            line: Vec::new(),
        })
    }

    /// The next line without its end; `None` after the last. A line that is too long is empty but for its length.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<&[u8], &'static str>>> {
        self.line.clear();
        let most = LONGEST as u64;
        let read = (&mut self.from)
            .take(most)
            .read_until(b'\n', &mut self.line)?;
        if read == 0 {
            self.bar.finish_and_clear();
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') && read == LONGEST {
            self.from.skip_until(b'\n')?;
            return Ok(Some(Err("the line is longer than 1 MiB")));
        }
        Ok(Some(Ok(self.line.trim_ascii())))
    }
}
