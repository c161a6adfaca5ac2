#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use super::*;

const GIB: u64 = 1 << 30;

/// A tree of files that is removed at the end of its test.
struct Tree(PathBuf);

impl Tree {
    /// `cgroup` and `mountinfo` are the process's own.
    fn new(name: &str, cgroup: &str, mountinfo: &str) -> Self {
        let tree = Self(std::env::temp_dir().join(format!("whimbrel-groups-{}-{name}", std::process::id())));
        tree.file("proc/self/cgroup", cgroup);
        tree.file("proc/self/mountinfo", mountinfo);
        tree
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A group of version 2; "max" is no limit.
    fn two(&self, group: &str, max: &str, high: &str, current: u64) {
        for (file, text) in [("max", max), ("high", high), ("current", &current.to_string())] {
            self.file(&format!("{group}/memory.{file}"), &format!("{text}\n"));
        }
    }

    /// A group of version 1.
    fn one(&self, group: &str, limit: u64, usage: u64, hierarchy: u64) {
        for (file, number) in [("limit_in_bytes", limit), ("usage_in_bytes", usage), ("use_hierarchy", hierarchy)] {
            self.file(&format!("{group}/memory.{file}"), &format!("{number}\n"));
        }
    }

    fn room(&self) -> Option<u64> {
        room_below(&self.0)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const TWO: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
const ONE: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                   32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                   35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
const NO_LIMIT: u64 = 9_223_372_036_854_771_712;

#[test]
fn a_limit_of_any_group_above_counts_in_version_2() {
    for (name, limits) in [("own", 0), ("parent", 1), ("grandparent", 2)] {
        let tree = Tree::new(name, "0::/a/b/c\n", TWO);
        for (number, group) in ["a/b/c", "a/b", "a"].into_iter().enumerate() {
            let max = if number == limits { (2 * GIB).to_string() } else { "max".into() };
            tree.two(&format!("sys/fs/cgroup/{group}"), &max, "max", GIB + number as u64);
        }
        assert_eq!(tree.room(), Some(GIB - limits as u64), "the limit is its {name}'s");
    }
}

#[test]
fn the_tightest_of_max_and_high_and_of_all_groups_counts() {
    let tree = Tree::new("tightest", "0::/a/b\n", TWO);
    tree.two("sys/fs/cgroup/a/b", &(8 * GIB).to_string(), "max", GIB);
    tree.two("sys/fs/cgroup/a", &(4 * GIB).to_string(), &(3 * GIB).to_string(), 2 * GIB);
    assert_eq!(tree.room(), Some(GIB));
    tree.two("sys/fs/cgroup/a", "max", &GIB.to_string(), 2 * GIB);
    assert_eq!(tree.room(), Some(0), "more is taken already than may be");
    tree.two("sys/fs/cgroup/a", "max", "max", 2 * GIB);
    assert_eq!(tree.room(), Some(7 * GIB));
}

#[test]
fn without_a_limit_there_is_none() {
    let tree = Tree::new("none", "0::/a\n", TWO);
    assert_eq!(tree.room(), None, "the controller is off");
    tree.two("sys/fs/cgroup/a", "max", "max", GIB);
    assert_eq!(tree.room(), None);
    let tree = Tree::new("none-one", "4:memory:/a\n", ONE);
    tree.one("sys/fs/cgroup/memory/a", NO_LIMIT, GIB, 1);
    tree.one("sys/fs/cgroup/memory", NO_LIMIT, GIB, 1);
    assert_eq!(tree.room(), None);
    assert_eq!(Tree::new("empty", "", "").room(), None);
}

#[test]
fn a_limit_of_any_group_above_counts_in_version_1() {
    for limits in 0..3 {
        let tree = Tree::new(&format!("one-{limits}"), "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n", ONE);
        for (number, group) in ["/a/b", "/a", ""].into_iter().enumerate() {
            let limit = if number == limits { 2 * GIB } else { NO_LIMIT };
            tree.one(&format!("sys/fs/cgroup/memory{group}"), limit, GIB + number as u64, 1);
        }
        assert_eq!(tree.room(), Some(GIB - limits as u64), "{limits} groups above");
    }
}

#[test]
fn a_group_of_version_1_that_does_not_count_its_children_does_not_limit_them() {
    let tree = Tree::new("flat", "4:memory:/a/b\n", ONE);
    tree.one("sys/fs/cgroup/memory/a/b", 4 * GIB, GIB, 0);
    tree.one("sys/fs/cgroup/memory/a", GIB, GIB, 0);
    assert_eq!(tree.room(), Some(3 * GIB));
}

#[test]
fn version_1_tells_limits_that_a_container_does_not_see() {
    let point = "35 31 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let tree = Tree::new("docker", "4:memory:/docker/x\n", point);
    tree.one("sys/fs/cgroup/memory", NO_LIMIT, GIB, 1);
    tree.file("sys/fs/cgroup/memory/memory.stat", &format!("cache 0\nhierarchical_memory_limit {}\n", 3 * GIB));
    assert_eq!(tree.room(), Some(2 * GIB));
}

#[test]
fn both_versions_beside_each_other_and_odd_mount_points_are_read() {
    let mounts = format!("{ONE}38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    let tree = Tree::new("hybrid", "4:memory:/a\n0::/x/y\n", &mounts);
    tree.one("sys/fs/cgroup/memory/a", 4 * GIB, GIB, 1);
    assert_eq!(tree.room(), Some(3 * GIB));
    tree.two("sys/fs/cgroup/unified/x", &(2 * GIB).to_string(), "max", GIB);
    assert_eq!(tree.room(), Some(GIB));

    let tree = Tree::new("odd", "0::/a/b\n", "30 23 0:26 /a /mnt/my\\040groups rw - cgroup2 none rw\n");
    tree.two("mnt/my groups/b", "max", "max", GIB);
    tree.two("mnt/my groups", &(2 * GIB).to_string(), "max", GIB);
    assert_eq!(tree.room(), Some(GIB), "the part that is mounted begins above this process");
}

#[test]
fn a_group_out_of_sight_is_not_looked_for() {
    // Of a process that was moved out of its namespace's part, or is in another part than the
    // mounted one.
    for own in ["/../../other", "/elsewhere"] {
        let tree = Tree::new("outside", &format!("0::{own}\n"), "30 23 0:26 /a /groups rw - cgroup2 none rw\n");
        tree.two("groups", &(2 * GIB).to_string(), "max", GIB);
        tree.two("other", &GIB.to_string(), "max", GIB);
        assert_eq!(tree.room(), Some(GIB), "{own}");
    }
}

/// Set in a process that the test below starts in a group, and which says how much room it has
/// there.
const INSIDE: &str = "WHIMBREL_TEST_TELLS_ROOM";

#[test]
fn a_real_process_sees_the_limit_of_the_group_above_its_own() {
    if std::env::var_os(INSIDE).is_some() {
        println!("room={:?}", room());
        return;
    }
    let Some(group) = Group::make(3 * GIB) else {
        eprintln!(
            "SKIPPED: no control group with a memory limit can be made here (it needs root, and the memory controller)"
        );
        return;
    };
    let name = "destination::groups::tests::a_real_process_sees_the_limit_of_the_group_above_its_own";
    let told = Command::new("sh")
        .args(["-c", "echo $$ >\"$1\" && shift && exec \"$@\"", "sh"])
        .arg(group.child().join("cgroup.procs"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&told.stdout);
    let room: u64 = text.split("room=Some(").nth(1).unwrap_or_default().split(')').next().unwrap().parse().unwrap_or(0);
    assert!(room > 2 * GIB && room < 3 * GIB, "{text}");
}

/// A group with a limit, and one below it without.
struct Group(PathBuf);

impl Group {
    fn make(limit: u64) -> Option<Self> {
        let mounts = read_to_string("/proc/self/mountinfo").ok()?;
        mounts.lines().filter_map(Mount::read).find_map(|mount| {
            let group = Self(mount.point.join(format!("whimbrel-test-{}", std::process::id())));
            fs::create_dir(&group.0).ok()?;
            let limited = match mount.version {
                Version::Two => fs::write(group.0.join("memory.max"), limit.to_string())
                    .and_then(|()| fs::write(group.0.join("cgroup.subtree_control"), "+memory")),
                Version::One => fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()),
            };
            limited.and_then(|()| fs::create_dir(group.child())).ok()?;
            Some(group)
        })
    }

    fn child(&self) -> PathBuf {
        self.0.join("child")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.child());
        let _ = fs::remove_dir(&self.0);
    }
}
