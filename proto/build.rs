//! Compiles the .proto files with protox (pure Rust: no protoc on any machine) and generates the
//! types, the client and the server.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

/// Root of the import paths.
const PROTO_ROOT: &str = "proto";
/// Every file of the API.
const PROTO_FILES: [&str; 1] = ["proto/steadfast/v1/control.proto"];
/// Number of `TYPE_ENUM` in descriptor.proto.
const FIELD_TYPE_ENUM: i32 = 14;

fn main() -> Result<(), Box<dyn Error>> {
    for file in PROTO_FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);

    // Reflection clients need no comments; rustdoc does. So compile twice.
    let mut bare = protox::Compiler::new([PROTO_ROOT])?;
    bare.include_source_info(false).include_imports(true).open_files(PROTO_FILES)?;
    fs::write(out_dir.join("steadfast.bin"), bare.encode_file_descriptor_set())?;

    let mut commented = protox::Compiler::new([PROTO_ROOT])?;
    commented.include_source_info(true).include_imports(true).open_files(PROTO_FILES)?;
    let descriptors = commented.file_descriptor_set();

    let mut builder = tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .btree_map(".")
        .message_attribute(".", "#[derive(serde::Deserialize, serde::Serialize)]")
        .message_attribute(".", "#[serde(default)]");
    for file in &descriptors.file {
        for message in &file.message_type {
            for field in &message.field {
                if field.r#type == Some(FIELD_TYPE_ENUM) {
                    let path = format!(".{}.{}.{}", file.package(), message.name(), field.name());
                    builder = builder.field_attribute(path, by_name(field.type_name()));
                }
            }
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

/// Makes serde write an enum field by name: prost stores it as a number, which no reader of JSON
/// should have to know.
fn by_name(enum_path: &str) -> String {
    let rust_type = enum_path.rsplit('.').next().unwrap_or_default();
    format!("#[serde(with = \"crate::json::by_name::<{rust_type}>\")]")
}
