// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plots

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chatrun.dev/operator/test/bench/rows"
)

// TestGrowth draws two points, and reads the pictures as XML.
func TestGrowth(t *testing.T) {
	docs := t.TempDir()
	dir := filepath.Join(docs, images)
	if links := Links(docs); links != "" {
		t.Errorf("links to what is not there: %q", links)
	}
	if err := Growth(rows.Growth{}, docs); err == nil {
		t.Error("nothing was drawn")
	}
	g := rows.Growth{Points: []rows.Grown{
		{Load: rows.Load{Runs: 10, PerSecond: 50}, Manager: rows.Relayed{CPU: 30, Resident: 40}, Copier: rows.Relayed{CPU: 20, Resident: 30}},
		{Load: rows.Load{Runs: 5000, PerSecond: 0.1}, Manager: rows.Relayed{CPU: 60, Resident: 300}, Copier: rows.Relayed{CPU: 40, Resident: 150}},
	}}
	if err := Growth(g, docs); err != nil {
		t.Fatal(err)
	}
	if links := Links(docs); strings.Count(links, "](images/bench-") != len(charts) {
		t.Errorf("links %q", links)
	}
	for _, c := range charts {
		raw, err := os.ReadFile(filepath.Join(dir, c.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"<svg", c.title, c.unit, "manager", "copier", ">10<", ">5000<"} {
			if !strings.Contains(string(raw), word) {
				t.Errorf("%s has no %q", c.file, word)
			}
		}
		for d := xml.NewDecoder(strings.NewReader(string(raw))); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.file, err)
			}
		}
	}
}
