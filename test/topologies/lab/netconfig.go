package lab

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// networkdPath is where Debian's package has systemd-networkd.
const networkdPath = "/usr/lib/systemd/systemd-networkd"

// networkdCaps are what its unit gives to systemd-networkd.
const networkdCaps = "+net_admin,+net_bind_service,+net_broadcast,+net_raw"

// busConfig is a system bus on which everybody in the node may do everything.
const busConfig = `<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default"><allow user="*"/><allow own="*"/><allow send_type="*"/><allow receive_type="*"/></policy>
</busconfig>
`

// StartBus runs a D-Bus system bus in the node, over which networkctl talks to
// systemd-networkd.
func (n *Node) StartBus() *Process {
	n.lab.t.Helper()
	require(n.lab.t, "dbus-daemon", "networkctl")
	n.WriteFile("/run/dbus/system.conf", busConfig)
	p := n.StartProcess("dbus-daemon", "dbus-daemon", "--config-file=/run/dbus/system.conf", "--nofork", "--nopidfile")
	n.waitListening(p, "/run/dbus/system_bus_socket")
	return p
}

// StartNetworkd runs systemd-networkd in the node, with the files of the node's
// /etc/systemd, and waits until it has done what they say for these interfaces.
func (n *Node) StartNetworkd(interfaces ...string) *Process {
	n.lab.t.Helper()
	require(n.lab.t, networkdPath, "setpriv")
	for _, dir := range []string{"", "/links", "/leases", "/lldp"} {
		n.Run("install", "-d", "-o", "systemd-network", "-g", "systemd-network", "/run/systemd/netif"+dir)
	}
	states := make([]string, len(interfaces))
	for i, ifc := range interfaces {
		index := strconv.Itoa(n.link(ifc).Attrs().Index)
		states[i] = "/run/systemd/netif/links/" + index
		n.Run("rm", "-f", states[i]) // of one that ran before
		// It waits until udev has done its part, and udev does not look into namespaces.
		n.WriteFile("/run/udev/data/n"+index, "I:1\n")
	}
	// As its unit does: as a user of its own from the start, for a process that
	// changes its user forgets that it is to die with the test.
	p := n.StartProcess("networkd", "env", "SYSTEMD_LOG_TARGET=console", "SYSTEMD_LOG_LEVEL=debug",
		"setpriv", "--reuid", "systemd-network", "--regid", "systemd-network", "--clear-groups",
		"--inh-caps", networkdCaps, "--ambient-caps", networkdCaps, "--pdeathsig", "KILL", networkdPath)
	for i, ifc := range interfaces {
		Eventually(n.lab.t, 15*time.Second, "systemd-networkd has configured "+ifc, func() error {
			if err := p.ended(); err != nil {
				n.lab.t.Fatal(err)
			}
			state, err := os.ReadFile(n.Path(states[i]))
			if err != nil {
				return err
			}
			done := strings.Contains(string(state), "ADMIN_STATE=configured\n") || strings.Contains(string(state), "ADMIN_STATE=unmanaged\n")
			return That(done, "%s", state)
		})
	}
	return p
}

// StartDHCPServer runs dnsmasq in the node as a DHCP server that leases exactly
// one address at an interface, with a default gateway and without name servers.
func (n *Node) StartDHCPServer(ifc string, lease netip.Prefix, gateway netip.Addr) *Process {
	n.lab.t.Helper()
	require(n.lab.t, "dnsmasq")
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), lease.Bits()).Masked().Addr()
	return n.StartProcess("dnsmasq", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--no-ping", "--log-dhcp",
		"--log-facility=-", "--pid-file=/run/dnsmasq.pid", "--dhcp-leasefile=/run/dnsmasq.leases", "--dhcp-authoritative", "--interface="+ifc,
		"--dhcp-range="+lease.Addr().String()+","+lease.Addr().String()+","+mask.String()+",2m",
		"--dhcp-option=option:router,"+gateway.String(), "--dhcp-option=option:dns-server")
}

// dhclientArgs are those by which a running client is found again.
func dhclientArgs(ifc string, more ...string) []string {
	args := []string{"dhclient", "-4", "-v", "-cf", "/etc/dhclient.conf", "-lf", "/run/dhclient.leases", "-pf", "/run/dhclient.pid"}
	return append(append(args, more...), ifc)
}

// StartDHCPClient runs ISC's DHCP client at an interface of the node, with the
// script of Debian's package. It renews its lease every two seconds.
func (n *Node) StartDHCPClient(ifc string) *Process {
	n.lab.t.Helper()
	require(n.lab.t, "dhclient")
	// A file of the node's own: the script replaces what the name leads to.
	n.WriteFile("/etc/resolv.conf", "")
	n.WriteFile("/etc/dhclient.conf", "request subnet-mask, routers;\nsupersede dhcp-renewal-time 2;\nsupersede dhcp-rebinding-time 100;\ninitial-interval 1;\n")
	return n.StartProcess("dhclient", dhclientArgs(ifc, "-d")...)
}

// ReleaseDHCP gives the lease of an interface back, which ends the client.
func (n *Node) ReleaseDHCP(ifc string) {
	n.lab.t.Helper()
	n.Run(dhclientArgs(ifc, "-r")...)
}

// StartRouterAdvertisements runs radvd in the node, which says at an interface
// that the node is a default router for the next four seconds, again and again.
func (n *Node) StartRouterAdvertisements(ifc string) *Process {
	n.lab.t.Helper()
	require(n.lab.t, "radvd")
	n.WriteFile("/etc/radvd.conf", "interface "+ifc+" { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 4; };\n")
	return n.StartProcess("radvd", "radvd", "-n", "-C", "/etc/radvd.conf", "-p", "/run/radvd.pid", "-m", "stderr")
}
