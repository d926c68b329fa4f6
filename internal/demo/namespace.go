package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace, one of the machines of the demo.
type namespace struct {
	name string
	fd   netns.NsHandle
	nl   *netlink.Handle
}

// threadNamespace is the network namespace of the thread that opens it. The
// process's number would not do: /proc may count from another PID namespace.
const threadNamespace = "/proc/thread-self/ns/net"

// newNamespace makes an empty network namespace, which lives as long as
// something refers to it.
func newNamespace(name string) (*namespace, error) {
	var fd netns.NsHandle
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			fd, err = netns.GetFromPath(threadNamespace)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	return openNamespace(name, fd)
}

// ownNamespace returns the namespace that the process itself is in.
func ownNamespace(name string) (*namespace, error) {
	fd, err := netns.GetFromPath(threadNamespace)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	return openNamespace(name, fd)
}

func openNamespace(name string, fd netns.NsHandle) (*namespace, error) {
	n := &namespace{name: name, fd: fd}
	err := n.do(func() (err error) {
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink in namespace %s: %w", name, err)
	}
	return n, n.up("lo")
}

// do calls f on a thread that is in the namespace: sockets opened, processes
// started and sysctls written by f belong to it.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.fd); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// onThread calls f on a thread of its own and waits for it. The goroutine ends
// without unlocking its thread, so the runtime ends that too and nothing else
// ever runs in the namespace that f changed to.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// sysctl writes the settings, given as path under /proc/sys/net and value.
// Those of IPv6 are left out where the kernel has none.
func (n *namespace) sysctl(settings ...[2]string) error {
	return n.do(func() error {
		for _, s := range settings {
			err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0o600)
			if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s[0], "ipv6/") {
				continue
			}
			if err != nil {
				return fmt.Errorf("set %s to %s in namespace %s: %w", s[0], s[1], n.name, err)
			}
		}
		return nil
	})
}

// up and down set the administrative state of a link.
func (n *namespace) up(link string) error   { return n.setLink(link, n.nl.LinkSetUp, "up") }
func (n *namespace) down(link string) error { return n.setLink(link, n.nl.LinkSetDown, "down") }

func (n *namespace) setLink(name string, set func(netlink.Link) error, word string) error {
	link, err := n.nl.LinkByName(name)
	if err == nil {
		err = set(link)
	}
	if err != nil {
		return fmt.Errorf("set %s %s in namespace %s: %w", name, word, n.name, err)
	}
	return nil
}

// index returns the number of a link.
func (n *namespace) index(name string) (int, error) {
	link, err := n.nl.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %s in namespace %s: %w", name, n.name, err)
	}
	return link.Attrs().Index, nil
}

// connect lays a link between n and other and gives each end its address, in
// CIDR form.
func (n *namespace) connect(name, cidr string, other *namespace, otherName, otherCIDR string) error {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = name, otherName, netlink.NsFd(other.fd)
	if err := n.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s in %s and %s in %s: %w", name, n.name, otherName, other.name, err)
	}
	return errors.Join(n.address(name, cidr), other.address(otherName, otherCIDR))
}

// address gives a link its address and sets it up.
func (n *namespace) address(name, cidr string) error {
	link, err := n.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s in namespace %s: %w", name, n.name, err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("address %s: %w", cidr, err)
	}
	if err := n.nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s to %s in namespace %s: %w", cidr, name, n.name, err)
	}
	return n.up(name)
}

// defaultRoute adds a default route by way of the gateway.
func (n *namespace) defaultRoute(gateway string) error {
	route := &netlink.Route{Gw: net.ParseIP(gateway), Protocol: syscall.RTPROT_STATIC}
	if err := n.nl.RouteAdd(route); err != nil {
		return fmt.Errorf("default route by %s in namespace %s: %w", gateway, n.name, err)
	}
	return nil
}
