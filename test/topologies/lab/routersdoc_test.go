package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestRoutersDocument: FRR takes what docs/routers.md says it should be given, as
// it stands there.
func TestRoutersDocument(t *testing.T) {
	require(t, "vtysh")
	const document = "../../../docs/routers.md"
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)\n```\n(.*?)```\n").FindAllSubmatchIndex(text, -1)
	seen := 0
	for _, at := range examples {
		example := string(text[at[2]:at[3]])
		if !strings.HasPrefix(example, "router bgp ") && !strings.HasPrefix(example, "bfd\n") {
			continue // of other software
		}
		seen++
		line := strings.Count(string(text[:at[2]]), "\n") + 1
		t.Run("line "+strconv.Itoa(line), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "frr.conf")
			if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
				t.Fatal(err)
			}
			// A dry run: it talks with no daemon.
			if out, err := exec.Command("vtysh", "-C", "-f", file).CombinedOutput(); err != nil {
				t.Errorf("FRR refuses the example in %s: %v\n%s", document, err, out)
			}
		})
	}
	if seen < 3 {
		t.Errorf("%d examples for FRR in %s: does the test still find them?", seen, document)
	}
}
