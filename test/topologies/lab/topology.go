package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Topology is the part of a containerlab topology file that our files use
// (https://containerlab.dev/manual/topo-def-file/). Other keys are errors, so
// that no file means one thing to containerlab and another here.
type Topology struct {
	Name     string `yaml:"name"`
	Topology struct {
		Defaults NodeSpec             `yaml:"defaults"`
		Nodes    map[string]*NodeSpec `yaml:"nodes"`
		Links    []LinkSpec           `yaml:"links"`
	} `yaml:"topology"`

	// order is the nodes' names in the order of the file.
	order []string
}

// NodeSpec is a node.
type NodeSpec struct {
	Kind        string   `yaml:"kind"`
	Image       string   `yaml:"image"`
	Cmd         string   `yaml:"cmd"`
	NetworkMode string   `yaml:"network-mode"`
	Binds       []string `yaml:"binds"`
	Exec        []string `yaml:"exec"`
}

// LinkSpec is a virtual cable with two ends of the form "node:interface".
type LinkSpec struct {
	Endpoints []string `yaml:"endpoints"`
}

// Endpoint is one end of a link.
type Endpoint struct {
	Node, Interface string
}

// Load reads the topology.clab.yml of dir.
func Load(dir string) (*Topology, error) {
	path := filepath.Join(dir, "topology.clab.yml")
	data, err := os.ReadFile(path) //nolint:gosec // the test names the file
	if err != nil {
		return nil, err
	}
	topo, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return topo, nil
}

func parse(data []byte) (*Topology, error) {
	topo := &Topology{}
	d := yaml.NewDecoder(strings.NewReader(string(data)))
	d.KnownFields(true)
	if err := d.Decode(topo); err != nil {
		return nil, err
	}
	var order struct {
		Topology struct {
			Nodes yaml.Node `yaml:"nodes"`
		} `yaml:"topology"`
	}
	if err := yaml.Unmarshal(data, &order); err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(order.Topology.Nodes.Content); i += 2 {
		topo.order = append(topo.order, order.Topology.Nodes.Content[i].Value)
	}
	return topo, topo.check()
}

func (topo *Topology) check() error {
	if topo.Name == "" || len(topo.Topology.Nodes) == 0 {
		return errors.New("name and topology.nodes are required")
	}
	for _, name := range topo.order {
		n := topo.Topology.Nodes[name]
		if n == nil {
			return fmt.Errorf("node %s: empty", name)
		}
		if n.Kind == "" {
			n.Kind = topo.Topology.Defaults.Kind
		}
		if n.NetworkMode == "" {
			n.NetworkMode = topo.Topology.Defaults.NetworkMode
		}
		if n.Kind != "linux" {
			return fmt.Errorf("node %s: kind %q: only linux can be laid out here", name, n.Kind)
		}
		if n.Image == "" {
			return fmt.Errorf("node %s: no image", name)
		}
		if of, ok := n.sharedWith(); ok && topo.Topology.Nodes[of] == nil {
			return fmt.Errorf("node %s: network-mode %s: no such node", name, n.NetworkMode)
		}
		for _, line := range n.Exec {
			if strings.ContainsAny(line, "'\"\\`$") || strings.TrimSpace(line) == "" {
				return fmt.Errorf("node %s: exec %q: want plain words, no shell runs it", name, line)
			}
		}
		for _, b := range n.Binds {
			if _, _, err := splitBind(b); err != nil {
				return fmt.Errorf("node %s: %w", name, err)
			}
		}
	}
	return topo.checkLinks()
}

func (topo *Topology) checkLinks() error {
	seen := map[Endpoint]bool{}
	for _, l := range topo.Topology.Links {
		if len(l.Endpoints) != 2 {
			return fmt.Errorf("link %v: needs two endpoints", l.Endpoints)
		}
		for _, s := range l.Endpoints {
			e, err := parseEndpoint(s)
			if err != nil {
				return err
			}
			if topo.Topology.Nodes[e.Node] == nil {
				return fmt.Errorf("endpoint %s: no such node", s)
			}
			if seen[e] {
				return fmt.Errorf("endpoint %s: used twice", s)
			}
			seen[e] = true
		}
	}
	return nil
}

// sharedWith returns the node whose network this one uses, if it has none of
// its own.
func (n *NodeSpec) sharedWith() (string, bool) {
	return strings.CutPrefix(n.NetworkMode, "container:")
}

// ends returns the two ends of a checked link.
func (l LinkSpec) ends() (a, b Endpoint) {
	a, _ = parseEndpoint(l.Endpoints[0])
	b, _ = parseEndpoint(l.Endpoints[1])
	return a, b
}

func parseEndpoint(s string) (Endpoint, error) {
	node, ifc, ok := strings.Cut(s, ":")
	if !ok || node == "" || ifc == "" || len(ifc) > 15 {
		return Endpoint{}, fmt.Errorf("endpoint %q: want node:interface, the interface of at most 15 characters", s)
	}
	return Endpoint{Node: node, Interface: ifc}, nil
}

// splitBind splits "source:target". Targets are files below /etc, the one
// directory that nodes have to themselves.
func splitBind(s string) (source, target string, err error) {
	source, target, ok := strings.Cut(s, ":")
	if !ok || source == "" || filepath.IsAbs(source) || target != filepath.Clean(target) || !strings.HasPrefix(target, "/etc/") {
		return "", "", fmt.Errorf("bind %q: want file:/etc/…, the file relative to the topology file", s)
	}
	return source, target, nil
}
