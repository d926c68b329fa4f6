// Package privilege holds what lets an ordinary user run the daemon: the
// capabilities that the executable file carries in the container image, and
// the step that makes them effective. Commands call that. And it confines the
// processes that the daemon starts for one task each.
//
// The file grants its capabilities as permitted, not as effective: a container
// that was started without them can then still execute the file and be told
// what is missing, where an effective grant would fail in execve (EPERM, see
// capabilities(7), "Safety checking for capability-dumb binaries").
package privilege

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// used is the set that the daemon, its speaker processes and its BFD process use.
// None of it has to be there for the file to be executed.
const used = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SYS_NICE

// xattr is the extended attribute that holds the capabilities of a file.
const xattr = "security.capability"

// fileCapabilities is struct vfs_cap_data of revision 2 (linux/capability.h):
// magic, then permitted and inheritable sets, low words first.
func fileCapabilities() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000000)
	b = binary.LittleEndian.AppendUint32(b, used)
	return append(b, make([]byte, 12)...)
}

// MarkFile gives the file at path CAP_NET_ADMIN, CAP_NET_BIND_SERVICE and
// CAP_SYS_NICE as permitted capabilities. A file that has them already is not written to, so
// that an image layer does not hold it twice. It needs CAP_SETFCAP.
func MarkFile(path string) error {
	want := fileCapabilities()
	have := make([]byte, 64)
	n, err := unix.Getxattr(path, xattr, have)
	if err == nil && bytes.Equal(have[:n], want) {
		return nil
	}
	if err != nil && !errors.Is(err, unix.ENODATA) {
		return fmt.Errorf("read capabilities of %s: %w", path, err)
	}
	if err := unix.Setxattr(path, xattr, want, 0); err != nil {
		return fmt.Errorf("write capabilities of %s: %w", path, err)
	}
	return nil
}

// Raise makes the permitted capabilities effective in every thread. Where they
// are already, as for root and under systemd, it changes nothing.
func Raise() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	if missing(data) == 0 {
		return nil
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	if err := capset(&header, &data); err != nil {
		return fmt.Errorf("raise own capabilities: %w", err)
	}
	return nil
}

// missing counts the capabilities that are permitted and not effective.
func missing(data [2]unix.CapUserData) int {
	n := 0
	for _, d := range data {
		n += bits.OnesCount32(d.Permitted &^ d.Effective)
	}
	return n
}
