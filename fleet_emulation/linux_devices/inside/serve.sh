#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of an emulated device: mount, bring the network up, and keep the control program running.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
hostname device
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
# A shell for whoever connects to the console.
while :; do
  setsid cttyhack sh </dev/ttyAMA0 >/dev/ttyAMA0 2>&1
  sleep 1
done &
while :; do
  /usr/bin/python3 -I /run/inside/control.py
  sleep 0.2
done
