package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// anchor makes the namespaces of a node and then waits for the end of its
// standard input, that is of the test process. /etc is a directory of links to
// the real one, so that files in it can be replaced for this node alone, and
// /var/lib is one too, so that orders of a daemon are this node's alone. Links
// use their link-local addresses at once, without looking for duplicates first:
// that takes seconds, in which routers would send half of their next hops.
const anchor = `set -e
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir /run/etc
mount --bind /etc /run/etc
mount -t tmpfs tmpfs /etc
ln -s /run/etc/* /etc/
mkdir /run/lib
mount --bind /var/lib /run/lib
mount -t tmpfs tmpfs /var/lib
ln -s /run/lib/* /var/lib/
rm -f /var/lib/vipspeaker
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
echo ready
exec cat`

// Node is a machine of the lab: a network namespace, a mount namespace and the
// daemons in them.
type Node struct {
	// Name is the node's name in the topology file.
	Name string

	lab   *Lab
	pid   int // of the anchor
	cmd   *exec.Cmd
	stdin io.Closer
	ns    netns.NsHandle
	nl    *netlink.Handle

	mu      sync.Mutex
	daemons []*Process
	names   map[int]string // of links, by index
}

func newNode(l *Lab, name string) *Node {
	l.t.Helper()
	n := &Node{Name: name, lab: l}
	n.cmd = exec.CommandContext(l.ctx, "unshare", "--net", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", anchor)
	var stderr bytes.Buffer
	n.cmd.Stderr = &stderr
	stdin, err := n.cmd.StdinPipe()
	if err != nil {
		l.t.Fatalf("lab: node %s: %v", name, err)
	}
	n.stdin = stdin
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatalf("lab: node %s: %v", name, err)
	}
	if err = n.cmd.Start(); err != nil {
		l.t.Fatalf("lab: node %s: %v", name, err)
	}
	n.pid = n.cmd.Process.Pid
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if line != "ready\n" {
		_ = n.cmd.Wait()
		l.t.Fatalf("lab: node %s: no namespaces: %v %s", name, err, stderr.String())
	}
	if n.ns, err = netns.GetFromPid(n.pid); err != nil {
		l.t.Fatalf("lab: node %s: %v", name, err)
	}
	if n.nl, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE); err != nil {
		l.t.Fatalf("lab: node %s: netlink: %v", name, err)
	}
	return n
}

// close kills the node's daemons and lets the kernel remove the namespaces.
func (n *Node) close() {
	n.mu.Lock()
	daemons := n.daemons
	n.daemons = nil
	n.mu.Unlock()
	for _, d := range daemons {
		d.Kill()
	}
	_ = n.stdin.Close()
	if err := n.cmd.Wait(); err != nil {
		n.lab.t.Errorf("lab: node %s: %v", n.Name, err)
	}
	if n.nl != nil {
		n.nl.Close()
	}
	_ = n.ns.Close()
}

// Do runs fn on a thread in the node's network namespace. Sockets that fn makes
// stay in it. fn starts no processes, and no goroutines that make sockets.
func (n *Node) Do(fn func() error) error {
	// The thread is given back to the runtime, never ended: processes that it
	// once started would get their parent-death signal.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return fmt.Errorf("node %s: own namespace: %w", n.Name, err)
	}
	defer home.Close() //nolint:errcheck // a descriptor of a namespace
	if err := netns.Set(n.ns); err != nil {
		return fmt.Errorf("node %s: enter namespace: %w", n.Name, err)
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			panic(fmt.Sprintf("node %s: leave namespace: %v", n.Name, err))
		}
	}()
	return fn()
}

// Command prepares a command that runs in the node.
func (n *Node) Command(args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(n.pid), "--net", "--mount", "--"}
	cmd := exec.CommandContext(n.lab.ctx, "nsenter", append(enter, args...)...) //nolint:gosec // tests say what runs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Run runs a command in the node and returns its standard output. The test
// fails when the command does.
func (n *Node) Run(args ...string) string {
	n.lab.t.Helper()
	out, err := n.Try(args...)
	if err != nil {
		n.lab.t.Fatal(err)
	}
	return out
}

// Try is Run for a command that may fail. It ends after a minute.
func (n *Node) Try(args ...string) (string, error) {
	cmd := n.Command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("node %s: %s: %w", n.Name, strings.Join(args, " "), err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("node %s: %s: %w: %s%s", n.Name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// Path returns the path under which this process sees a file of the node.
func (n *Node) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(n.pid), "root", path)
}

// WriteFile makes or replaces a file of the node below /etc or /run.
func (n *Node) WriteFile(path, content string) {
	n.lab.t.Helper()
	if err := n.writeFile(path, []byte(content)); err != nil {
		n.lab.t.Fatalf("lab: node %s: %v", n.Name, err)
	}
}

func (n *Node) writeFile(path string, content []byte) error {
	if err := n.ownDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	// Replaced, not overwritten: the entry may be a link to the machine's file.
	if err := os.Remove(n.Path(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(n.Path(path), content, 0o644) //nolint:gosec // as in /etc
}

// ownDirectory makes dir a directory of the node's own: below /etc, a link to
// the machine's directory gives way.
func (n *Node) ownDirectory(dir string) error {
	if rest, below := strings.CutPrefix(dir, "/etc/"); below {
		top := n.Path("/etc/" + strings.Split(rest, "/")[0])
		if info, err := os.Lstat(top); err == nil && info.Mode()&os.ModeSymlink != 0 {
			if err := os.Remove(top); err != nil {
				return err
			}
		}
	}
	return os.MkdirAll(n.Path(dir), 0o755) //nolint:gosec // as in /etc
}

// bind copies the files that the topology file binds into the node.
func (n *Node) bind(dir string, spec *NodeSpec) {
	n.lab.t.Helper()
	for _, b := range spec.Binds {
		source, target, err := splitBind(b)
		if err == nil {
			var data []byte
			if data, err = os.ReadFile(filepath.Join(dir, source)); err == nil { //nolint:gosec // the topology names it
				err = n.writeFile(target, data)
			}
		}
		if err != nil {
			n.lab.t.Fatalf("lab: node %s: bind %s: %v", n.Name, b, err)
		}
	}
}

// Log returns what the named daemon has logged.
func (n *Node) Log(daemon string) string { return n.lab.log(n.Name, daemon) }

// report tells about the node after a failed test.
func (n *Node) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s\n", n.Name)
	for _, args := range [][]string{
		{"ip", "-br", "addr"},
		{"ip", "rule"},
		{"ip", "-4", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
	} {
		out, err := n.Try(args...)
		fmt.Fprintf(&b, "--- %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.daemons {
		fmt.Fprintf(&b, "--- log of %s (pid %d), its end\n%s\n", d.Name, d.PID, tail(n.Log(d.Name), 40))
	}
	return b.String()
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
