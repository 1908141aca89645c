//! The example that watches its configuration, as Kubernetes replaces a mounted ConfigMap.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]
#![cfg(unix)]

mod programs;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use programs::{Running, build};

/// Puts another version of the map in place, as the kubelet does: a new folder, and `..data` renamed over.
fn publish(root: &Path, version: &str, text: &str) {
    let folder = root.join(version);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("callerid.toml"), text).unwrap();
    symlink(version, root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
}

#[test]
fn it_follows_the_swap_of_a_config_map_and_keeps_the_old_policies_where_a_file_is_broken() {
    let root = std::env::temp_dir().join(format!("callerid-watch-{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    publish(&root, "..v1", "mode = \"shadow\"\n");
    let path = root.join("callerid.toml");
    symlink("..data/callerid.toml", &path).unwrap();
    let organisation = root.join("organisation.toml");
    fs::write(&organisation, "exempt = [\"/healthz\"]\n").unwrap();
    let watch = Running::start(Command::new(build("watch")).args([&organisation, &path]));
    let said = watch.line().unwrap();
    assert!(said.ends_with("in mode shadow"), "{said}");
    publish(&root, "..v2", "mode = \"observe\"\n");
    assert_eq!(watch.line().unwrap(), "read again; mode observe");
    fs::remove_dir_all(root.join("..v1")).unwrap();
    publish(
        &root,
        "..v3",
        "mode = \"enforce\"\n[default]\nquota = \"lots\"\n",
    );
    let complaint = watch.logged("not used").unwrap();
    assert_eq!(
        complaint,
        "not used: default.quota: \"lots\" is not a rate; use N/s, N/min or N/h"
    );
    publish(&root, "..v4", "mode = \"off\"\n");
    assert_eq!(watch.line().unwrap(), "read again; mode off");
    // The first of the two is followed too, and the last wins.
    fs::write(&organisation, "mode = \"enforce\"\n").unwrap();
    assert_eq!(watch.line().unwrap(), "read again; mode off");
    watch.signal("KILL");
    fs::remove_dir_all(&root).unwrap();
}
