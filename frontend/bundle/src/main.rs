//! Builds the site folder that the server embeds.
//!
//! `bundle WASM OUT`: runs wasm-bindgen over the built library, minifies the stylesheet, copies `public`, puts a hash
//! of the content into the names of what may be cached for ever, adds brotli twins, and writes `manifest.txt`, a line
//! `logical-name path` each. Run from the workspace's root.
#![expect(clippy::print_stdout, reason = "a build tool that reports to the terminal")]

use lightningcss::stylesheet::{MinifyOptions, ParserOptions, PrinterOptions, StyleSheet};
use sha2::Digest as _;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Brotli's best; the files are built once and sent often.
const BROTLI_QUALITY: u32 = 11;
/// Brotli's window, 2^22 bytes.
const BROTLI_WINDOW: u32 = 22;
/// What all wasm may weigh after brotli, in bytes.
const WASM_BUDGET_BYTES: usize = 120 * 1024;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(wasm), Some(out)) = (args.next(), args.next()) else {
        return Err("use: bundle WASM OUT".into());
    };
    let out = Path::new(&out);
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out.join("pkg"))?;
    let mut manifest = Vec::new();
    let mut site = Site {
        out,
        manifest: &mut manifest,
        wasm_bytes: 0,
    };
    site.islands(Path::new(&wasm))?;
    site.style()?;
    site.public()?;
    let wasm_bytes = site.wasm_bytes;
    fs::write(out.join("manifest.txt"), manifest.join("\n") + "\n")?;
    println!(
        "site: {} files, {wasm_bytes} bytes of wasm after brotli",
        manifest.len()
    );
    if wasm_bytes > WASM_BUDGET_BYTES {
        return Err(format!("the wasm weighs {wasm_bytes} bytes, the budget is {WASM_BUDGET_BYTES}").into());
    }
    Ok(())
}

struct Site<'a> {
    out: &'a Path,
    manifest: &'a mut Vec<String>,
    wasm_bytes: usize,
}

impl Site<'_> {
    fn islands(&mut self, wasm: &Path) -> Result<()> {
        let staging = self.out.join("staging");
        wasm_bindgen_cli_support::Bindgen::new()
            .input_path(wasm)
            .web(true)?
            .out_name("turnpike")
            .typescript(false)
            .remove_name_section(true)
            .remove_producers_section(true)
            .generate(&staging)?;
        let code = fs::read(staging.join("turnpike_bg.wasm"))?;
        let script = fs::read(staging.join("turnpike.js"))?;
        // wasm-bindgen puts inline JavaScript of dependencies beside the script and refers to it by relative path.
        let snippets = staging.join("snippets");
        if snippets.exists() {
            copy_tree(&snippets, &self.out.join("pkg/snippets"))?;
        }
        fs::remove_dir_all(&staging)?;
        self.wasm_bytes += self.put("turnpike.wasm", "pkg", "wasm", &code, true)?;
        self.put("turnpike.js", "pkg", "js", &script, true)?;
        let boot = fs::read("public/boot.js")?;
        self.put("boot.js", "pkg", "js", &boot, true)?;
        Ok(())
    }

    fn style(&mut self) -> Result<()> {
        let source = fs::read_to_string("style/turnpike.css")?;
        let mut sheet = StyleSheet::parse(&source, ParserOptions::default()).map_err(|e| e.to_string())?;
        sheet.minify(MinifyOptions::default())?;
        let css = sheet
            .to_css(PrinterOptions {
                minify: true,
                ..PrinterOptions::default()
            })?
            .code;
        self.put("turnpike.css", "pkg", "css", css.as_bytes(), true)?;
        Ok(())
    }

    fn public(&mut self) -> Result<()> {
        for entry in fs::read_dir("public")? {
            let entry = entry?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|_| "a name in public/ is not UTF-8")?;
            if name == "boot.js" || !entry.file_type()?.is_file() {
                continue;
            }
            let content = fs::read(entry.path())?;
            self.put(&name, "", "", &content, false)?;
        }
        Ok(())
    }

    /// Writes a file and its brotli twin; gives the twin's size.
    fn put(&mut self, logical: &str, folder: &str, extension: &str, content: &[u8], hashed: bool) -> Result<usize> {
        let name = if hashed {
            let sum = sha2::Sha256::digest(content);
            let mark: String = sum.iter().take(6).map(|b| format!("{b:02x}")).collect();
            format!("{}.{mark}.{extension}", logical.split('.').next().unwrap_or(logical))
        } else {
            logical.to_owned()
        };
        let path = self.out.join(folder).join(&name);
        fs::write(&path, content)?;
        let mut packed = Vec::new();
        brotli::CompressorWriter::new(&mut packed, 4096, BROTLI_QUALITY, BROTLI_WINDOW).write_all(content)?;
        if packed.len() < content.len() {
            fs::write(path.with_file_name(format!("{name}.br")), &packed)?;
        }
        let folder = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        self.manifest.push(format!("{logical} /{folder}{name}"));
        Ok(packed.len())
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
