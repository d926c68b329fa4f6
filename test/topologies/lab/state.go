package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// State returns what the node's kernel holds, as text that is the same for the
// same state: links, addresses, rules, routes of all tables, and the settings of
// every interface that is there. Two states are compared whole.
func (n *Node) State() string {
	n.lab.t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"ip", "-o", "link"},
		{"ip", "-o", "addr"},
		{"ip", "rule"},
		{"ip", "-6", "rule"},
		{"ip", "-4", "-d", "route", "show", "table", "all"},
		{"ip", "-6", "-d", "route", "show", "table", "all"},
	} {
		lines := strings.Split(strings.TrimSpace(n.Run(args...)), "\n")
		for i, line := range lines {
			// ip writes a space at the end of some lines only.
			lines[i] = strings.TrimRight(line, " ")
		}
		if args[len(args)-1] == "all" {
			// The kernel lists routes that come back behind the others.
			slices.Sort(lines)
		}
		fmt.Fprintf(&b, "# %s\n%s\n", strings.Join(args, " "), strings.Join(lines, "\n"))
	}
	settings, err := n.sysctls()
	if err != nil {
		n.lab.t.Fatalf("node %s: settings: %v", n.Name, err)
	}
	return b.String() + settings
}

// sysctls reads net/{ipv4,ipv6}/{conf,neigh}/*/* in the node's namespace.
func (n *Node) sysctls() (string, error) {
	var b strings.Builder
	err := n.Do(func() error {
		for _, pattern := range []string{"ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"} {
			files, err := filepath.Glob("/proc/sys/net/" + pattern + "/*/*")
			if err != nil {
				return err
			}
			for _, f := range files {
				// Some can only be written and some need a value first.
				if data, err := os.ReadFile(f); err == nil { //nolint:gosec // below /proc/sys/net
					fmt.Fprintf(&b, "%s = %s", strings.TrimPrefix(f, "/proc/sys/"), data)
				}
			}
		}
		return nil
	})
	return "# sysctl\n" + b.String(), err
}
