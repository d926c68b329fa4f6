package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// snapshot returns all that a machine has of links, addresses, routes of every
// table, policy rules and interface settings, one line each, sorted.
func (n *namespace) snapshot() ([]string, error) {
	links, err := n.linkLines()
	if err != nil {
		return nil, fmt.Errorf("read links of %s: %w", n.name, err)
	}
	routes, err := n.routeLines()
	if err != nil {
		return nil, fmt.Errorf("read routes of %s: %w", n.name, err)
	}
	settings, err := n.settingLines()
	if err != nil {
		return nil, fmt.Errorf("read settings of %s: %w", n.name, err)
	}
	lines := slices.Concat(links, routes, settings)
	slices.Sort(lines)
	return lines, nil
}

func (n *namespace) linkLines() ([]string, error) {
	links, err := n.nl.LinkList()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, l := range links {
		a := l.Attrs()
		lines = append(lines, fmt.Sprintf("link %s %s flags %#x mtu %d alias %q state %s",
			a.Name, l.Type(), a.RawFlags, a.MTU, a.Alias, a.OperState))
		addrs, err := n.nl.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			lines = append(lines, fmt.Sprintf("address %s on %s scope %d flags %#x", addr.IPNet, a.Name, addr.Scope, addr.Flags))
		}
	}
	return lines, nil
}

func (n *namespace) routeLines() ([]string, error) {
	var lines []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// An unspecified table in the filter means all of them.
		routes, err := n.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for i := range routes {
			lines = append(lines, "route "+routes[i].String())
		}
		rules, err := n.rules(family)
		if err != nil {
			return nil, err
		}
		for i := range rules {
			lines = append(lines, fmt.Sprintf("rule family %d: %s", family, rules[i].String()))
		}
	}
	return lines, nil
}

// rules lists those of a family, none of one that the kernel does not have
// (ipv6.disable=1).
func (n *namespace) rules(family int) ([]netlink.Rule, error) {
	list, err := n.nl.RuleList(family)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	return list, err
}

// settingLines lists the settings of each interface that can be read.
func (n *namespace) settingLines() ([]string, error) {
	var lines []string
	read := func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		value, err := os.ReadFile(filepath.Clean(path))
		switch {
		case errors.Is(err, syscall.EIO), errors.Is(err, fs.ErrPermission):
			return nil // a secret that is not set, or a trigger that can only be written
		case errors.Is(err, fs.ErrNotExist):
			return nil // of an interface that went away meanwhile
		case err != nil:
			return err
		}
		lines = append(lines, "setting "+path+" = "+strings.TrimSpace(string(value)))
		return nil
	}
	err := n.do(func() error {
		var errs []error
		for _, tree := range []string{"ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"} {
			err := filepath.WalkDir("/proc/sys/net/"+tree, read)
			if !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	return lines, err
}

// difference returns what changed between two snapshots, empty if nothing did.
func difference(before, after []string) string {
	return cmp.Diff(before, after)
}
