# SPDX-License-Identifier: Apache-2.0
"""Numbers of the system calls that a confined process is refused, for three machines (Linux 6.12's tables).

A column is None where the machine has no such call.
"""

from typing import Literal

Machine = Literal["x86_64", "aarch64", "arm"]
#: The columns of the tables below.
MACHINES: tuple[Machine, ...] = ("x86_64", "aarch64", "arm")
#: The kernel's names of the machines in a filter's data (linux/audit.h).
AUDIT_ARCH: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028}
Numbers = tuple[int | None, int | None, int | None]

#: Refused in any case.
NEVER: dict[str, Numbers] = {
    # no socket but those that it has
    "socket": (41, 198, 281),
    "socketpair": (53, 199, 288),
    "connect": (42, 203, 283),
    "bind": (49, 200, 282),
    "listen": (50, 201, 284),
    # no look into other processes, no signals to them
    "ptrace": (101, 117, 26),
    "process_vm_readv": (310, 270, 376),
    "process_vm_writev": (311, 271, 377),
    "process_madvise": (440, 440, 440),
    "process_mrelease": (448, 448, 448),
    "kcmp": (312, 272, 378),
    "pidfd_open": (434, 434, 434),
    "pidfd_getfd": (438, 438, 438),
    "pidfd_send_signal": (424, 424, 424),
    "rt_sigqueueinfo": (129, 138, 178),
    "rt_tgsigqueueinfo": (297, 240, 363),
    "tkill": (200, 130, 238),
    "migrate_pages": (256, 238, 400),
    "move_pages": (279, 239, 344),
    "setpriority": (141, 140, 97),
    "ioprio_set": (251, 30, 314),
    "sched_setscheduler": (144, 119, 156),
    "sched_setparam": (142, 118, 154),
    "sched_setattr": (314, 274, 380),
    # no new program or process
    "execve": (59, 221, 11),
    "execveat": (322, 281, 387),
    "fork": (57, None, 2),
    "vfork": (58, None, 190),
    # no other view of the file system
    "mount": (165, 40, 21),
    "umount2": (166, 39, 52),
    "pivot_root": (155, 41, 218),
    "chroot": (161, 51, 61),
    "setns": (308, 268, 375),
    "unshare": (272, 97, 337),
    "open_tree": (428, 428, 428),
    "move_mount": (429, 429, 429),
    "fsopen": (430, 430, 430),
    "fsconfig": (431, 431, 431),
    "fsmount": (432, 432, 432),
    "fspick": (433, 433, 433),
    "mount_setattr": (442, 442, 442),
    "open_by_handle_at": (304, 265, 371),
    "name_to_handle_at": (303, 264, 370),
    # no way past this filter
    "io_uring_setup": (425, 425, 425),
    "io_uring_enter": (426, 426, 426),
    "io_uring_register": (427, 427, 427),
    "io_setup": (206, 0, 243),
    "personality": (135, 92, 136),
    "modify_ldt": (154, None, None),
    # nothing of the kernel's
    "bpf": (321, 280, 386),
    "perf_event_open": (298, 241, 364),
    "keyctl": (250, 219, 311),
    "add_key": (248, 217, 309),
    "request_key": (249, 218, 310),
    "kexec_load": (246, 104, 347),
    "kexec_file_load": (320, 294, 401),
    "init_module": (175, 105, 128),
    "finit_module": (313, 273, 379),
    "delete_module": (176, 106, 129),
    "reboot": (169, 142, 88),
    "swapon": (167, 224, 87),
    "swapoff": (168, 225, 115),
    "settimeofday": (164, 170, 79),
    "clock_settime": (227, 112, 262),
    "clock_settime64": (None, None, 404),
    "adjtimex": (159, 171, 124),
    "clock_adjtime": (305, 266, 372),
    "clock_adjtime64": (None, None, 405),
    "sethostname": (170, 161, 74),
    "setdomainname": (171, 162, 121),
    "userfaultfd": (323, 282, 388),
    "acct": (163, 89, 51),
    "quotactl": (179, 60, 131),
    "quotactl_fd": (443, 443, 443),
    "syslog": (103, 116, 103),
    "fanotify_init": (300, 262, 367),
    "lookup_dcookie": (212, 18, 249),
    "nfsservctl": (180, 42, 169),
    "vhangup": (153, 58, 111),
    "iopl": (172, None, None),
    "ioperm": (173, None, None),
    # nothing that other processes could find
    "shmget": (29, 194, 307),
    "msgget": (68, 186, 303),
    "semget": (64, 190, 299),
    "mq_open": (240, 180, 274),
}
#: Refused to who may write no file, whatever its name.
WRITING: dict[str, Numbers] = {
    "creat": (85, None, 8),
    "rename": (82, None, 38),
    "renameat": (264, 38, 329),
    "renameat2": (316, 276, 382),
    "unlink": (87, None, 10),
    "unlinkat": (263, 35, 328),
    "mkdir": (83, None, 39),
    "mkdirat": (258, 34, 323),
    "rmdir": (84, None, 40),
    "link": (86, None, 9),
    "linkat": (265, 37, 330),
    "symlink": (88, None, 83),
    "symlinkat": (266, 36, 331),
    "mknod": (133, None, 14),
    "mknodat": (259, 33, 324),
    "truncate": (76, 45, 92),
    "truncate64": (None, None, 193),
    "chmod": (90, None, 15),
    "fchmod": (91, 52, 94),
    "fchmodat": (268, 53, 333),
    "fchmodat2": (None, 452, 452),
    "chown": (92, None, 182),
    "chown32": (None, None, 212),
    "lchown": (94, None, 16),
    "lchown32": (None, None, 198),
    "fchown": (93, 55, 95),
    "fchown32": (None, None, 207),
    "fchownat": (260, 54, 325),
    "utime": (132, None, 30),
    "utimes": (235, None, 269),
    "utimensat": (280, 88, 348),
    "utimensat_time64": (None, None, 412),
    "futimesat": (261, None, 326),
    "setxattr": (188, 5, 226),
    "lsetxattr": (189, 6, 227),
    "fsetxattr": (190, 7, 228),
    "removexattr": (197, 14, 235),
    "lremovexattr": (198, 15, 236),
    "fremovexattr": (199, 16, 237),
}
#: Refused or not by their arguments.
BY_ARGUMENT: dict[str, Numbers] = {
    "open": (2, None, 5),
    "openat": (257, 56, 322),
    "openat2": (437, 437, 437),
    "clone": (56, 220, 120),
    "clone3": (435, 435, 435),
    "kill": (62, 129, 37),
    "tgkill": (234, 131, 268),
    "prlimit64": (302, 261, 369),
    "ioctl": (16, 29, 54),
}


def number(table: dict[str, Numbers], name: str, machine: Machine) -> int | None:
    """Return the number of a call on a machine, None where there is none."""
    return table[name][MACHINES.index(machine)]
