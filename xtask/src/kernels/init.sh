#!/bin/busybox sh
# The first process of a guest: the host's root, read-only, with what the guest writes over it in memory.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod "/modules/$module" || echo "guest: insmod $module failed"; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host || poweroff -f
mount -t tmpfs tmpfs /upper
mkdir /upper/upper /upper/work
mount -t overlay overlay -o lowerdir=/host,upperdir=/upper/upper,workdir=/upper/work /root || poweroff -f
for dir in proc sys dev; do mount --move /$dir /root/$dir; done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t tmpfs run /root/run
mount -t bpf bpf /root/sys/fs/bpf
cp /bin/busybox /root/run/busybox
cp /guest.sh /order /root/run/
for word in $(cat /root/proc/cmdline); do case $word in manx.*=*) echo "${word#manx.}" >> /root/run/words ;; esac; done
exec switch_root /root /bin/sh /run/guest.sh
