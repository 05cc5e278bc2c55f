// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// pinned is an action at a commit, with the version that it is beside it.
var pinned = regexp.MustCompile(`^\s*(?:- )?uses: [\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)

// workflows are the files of .github/workflows.
func workflows(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, ".github", "workflows", "*.yaml"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%q, %v", files, err)
	}
	all := map[string]string{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = string(raw)
	}
	return all
}

// TestWorkflows: they read, by default, nothing but the code; run no action that
// somebody may change; end in time; and say to GitHub what they mean.
func TestWorkflows(t *testing.T) {
	for name, text := range workflows(t) {
		for n, line := range strings.Split(text, "\n") {
			if strings.Contains(line, "uses:") && !pinned.MatchString(line) {
				t.Errorf("%s:%d is not pinned: %s", name, n+1, line)
			}
		}
		var w struct {
			Permissions map[string]string
			Concurrency map[string]any
			Jobs        map[string]struct {
				Permissions any
				Timeout     int `json:"timeout-minutes"`
			}
		}
		if err := yaml.Unmarshal([]byte(text), &w); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" || w.Concurrency["group"] == nil {
			t.Errorf("%s: permissions %v, concurrency %v", name, w.Permissions, w.Concurrency)
		}
		for job, j := range w.Jobs {
			if j.Permissions != nil || j.Timeout == 0 || j.Timeout > 120 {
				t.Errorf("%s: %s: permissions %v, %d minutes", name, job, j.Permissions, j.Timeout)
			}
		}
		if out, err := tool(t, "supplytools", text, "actionlint", "-"); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	ci := workflows(t)["ci.yaml"]
	if !regexp.MustCompile(`(?m)^ +- run: .*\.ci/run$`).MatchString(ci) {
		t.Error("ci.yaml does not run .ci/run")
	}
	if out, err := tool(t, "supplytools", strings.ReplaceAll(ci, "github.ref", "github.rev"), "actionlint", "-"); err == nil || !strings.Contains(out, "rev") {
		t.Errorf("a mistake is not seen: %v\n%s", err, out)
	}
}

// TestVulncheck: the check of `make vulncheck` finds what a database tells of, here
// one of our own.
func TestVulncheck(t *testing.T) {
	db := t.TempDir()
	check := func() (string, error) {
		return tool(t, "supplytools", "", "govulncheck", "-db=file://"+db, "-scan=package", "-C="+repository, "./cmd/manager")
	}
	put := func(name string, content any) {
		t.Helper()
		raw, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(db, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type fields = map[string]any
	at := "2026-01-01T00:00:00Z"
	put("index/db.json", fields{"modified": at})
	put("index/modules.json", []any{})
	put("index/vulns.json", []any{})
	if out, err := check(); err != nil {
		t.Errorf("with an empty database: %v\n%s", err, out)
	}
	const module = "github.com/rs/cors"
	put("index/modules.json", []any{fields{"path": module, "vulns": []any{fields{"id": "GO-2026-0001", "modified": at}}}})
	put("index/vulns.json", []any{fields{"id": "GO-2026-0001", "modified": at}})
	put("ID/GO-2026-0001.json", fields{
		"schema_version": "1.3.1", "id": "GO-2026-0001", "modified": at, "published": at, "summary": "A test",
		"affected": []any{fields{
			"package": fields{"name": module, "ecosystem": "Go"},
			"ranges":  []any{fields{"type": "SEMVER", "events": []any{fields{"introduced": "0"}}}},
		}},
		"database_specific": fields{"url": "https://example.org"},
	})
	if out, err := check(); err == nil || !strings.Contains(out, "GO-2026-0001") {
		t.Errorf("a module that is vulnerable: %v\n%s", err, out)
	}
}
