#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first program of the initial RAM disk: load drivers, find the disk with the root file system, and go on there.
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t sysfs sys /sys
for module in $($busybox cat /modules/order); do
  $busybox insmod "/modules/$module"
done
for disk in /sys/block/vd*; do
  if [ "$($busybox cat "$disk/serial")" = root ]; then root="/dev/${disk##*/}"; fi
done
$busybox mount -t ext4 -o ro "$root" /root || exit 1
$busybox mount -t tmpfs -o mode=0755 run /root/run
$busybox cp -r /inside /root/run/inside
$busybox umount /sys
$busybox mount --move /dev /root/dev
exec $busybox switch_root /root /bin/busybox sh /run/inside/serve.sh
