// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics asks a manager under load for its metrics, and evaluates every
// panel of the dashboard and every alert over them, with Prometheus' own engine.
package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/teststorage"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/test/harness"
)

func monitoring(name string) string {
	return filepath.Join(harness.Root(), "config", "monitoring", name)
}

// expression is one of a panel, or of an alert.
type expression struct{ title, expr string }

// panels returns the expressions of the dashboard, by panel, with the variables filled
// in as Grafana does.
func panels(t *testing.T) []expression {
	t.Helper()
	var board struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	raw, err := os.ReadFile(monitoring("dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	var all []expression
	for _, p := range board.Panels {
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "2m", "$provider", ".*").Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("panel %q has a variable that nobody fills in: %s", p.Title, expr)
			}
			all = append(all, expression{p.Title, expr})
		}
	}
	return all
}

func alerts(t *testing.T) []expression {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	raw, err := os.ReadFile(monitoring("alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	var all []expression
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			all = append(all, expression{r.Alert, r.Expr})
		}
	}
	return all
}

// TestAlertRules lets promtool check the rules, and run their unit tests.
func TestAlertRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", monitoring("alerts.yaml")}, {"test", "rules", monitoring("alerts_test.yaml")}} {
		out, err := exec.CommandContext(t.Context(), "go", append([]string{"tool", "promtool"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// TestAlertsAreTestedAndExplained: each has unit tests for when it fires and when not,
// and a line in docs/metrics.md.
func TestAlertsAreTestedAndExplained(t *testing.T) {
	tests, err := os.ReadFile(monitoring("alerts_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(ChatRun[A-Za-z]+)` \\| [^|]{20,} \\| [^|]{20,} \\|$").FindAllStringSubmatch(string(page), -1) {
		explained[row[1]] = true
	}
	for _, a := range alerts(t) {
		if !regexp.MustCompile("alertname: " + a.title + "\n +exp_alerts: \\[\\{").Match(tests) {
			t.Errorf("%s is never seen to fire", a.title)
		}
		if !explained[a.title] {
			t.Errorf("%s is not explained", a.title)
		}
		delete(explained, a.title)
	}
	if len(explained) > 0 {
		t.Errorf("explained, and no alerts: %v", explained)
	}
}

// store is what Prometheus has scraped.
type store struct {
	db     *teststorage.TestStorage
	engine *promql.Engine
	// labels are those that series of a name were seen with.
	labels map[string]map[string]bool
	// series are those of the last scrape that are ours, without what Prometheus adds.
	series map[string]bool
	now    time.Time
}

func newStore(t *testing.T) *store {
	s := &store{
		db: teststorage.New(t), labels: map[string]map[string]bool{}, now: time.Unix(1_800_000_000, 0),
		engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 1 << 20, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})}),
	}
	t.Cleanup(func() { _ = s.engine.Close() })
	return s
}

// take takes in what was scraped, at the time of now.
func (s *store) take(ctx context.Context, text []byte) error {
	p, err := textparse.New(text, "text/plain; version=0.0.4", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return err
	}
	s.series = map[string]bool{}
	app := s.db.Appender(ctx)
	for {
		kind, err := p.Next()
		switch {
		case errors.Is(err, io.EOF):
			return app.Commit()
		case err != nil:
			return err
		case kind != textparse.EntrySeries:
			continue
		}
		name, _, value := p.Series()
		var set labels.Labels
		p.Labels(&set)
		if strings.HasPrefix(string(name), "chatrun_") {
			s.series[string(name)] = true
		}
		set = labels.NewBuilder(set).Set("instance", "manager:8443").Set("job", "chatrun").Labels()
		metric := set.Get("__name__")
		if s.labels[metric] == nil {
			s.labels[metric] = map[string]bool{}
		}
		set.Range(func(l labels.Label) { s.labels[metric][l.Name] = true })
		if _, err := app.Append(0, set, s.now.UnixMilli(), value); err != nil {
			return err
		}
	}
}

// ask evaluates an expression.
func (s *store) ask(ctx context.Context, expr string) (promql.Vector, error) {
	q, err := s.engine.NewInstantQuery(ctx, s.db, nil, expr, s.now)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	result := q.Exec(ctx)
	if result.Err != nil {
		return nil, result.Err
	}
	return result.Vector()
}

// sum is the value of an expression that has one.
func (s *store) sum(t *testing.T, expr string) float64 {
	t.Helper()
	v, err := s.ask(t.Context(), expr)
	if err != nil || len(v) > 1 {
		t.Fatalf("%s: %v, %v", expr, v, err)
	}
	if len(v) == 0 {
		return 0
	}
	return v[0].F
}

// checkNames says which metrics and labels of an expression the manager has not.
func (s *store) checkNames(expr string) error {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return err
	}
	var problems []error
	known := map[string]bool{"le": true}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		has := s.labels[selector.Name]
		if has == nil {
			problems = append(problems, fmt.Errorf("there is no %s", selector.Name))
		}
		maps.Copy(known, has)
		for _, m := range selector.LabelMatchers {
			if has != nil && !has[m.Name] {
				problems = append(problems, fmt.Errorf("%s has no label %s", selector.Name, m.Name))
			}
		}
		return nil
	})
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if a, ok := node.(*parser.AggregateExpr); ok {
			for _, l := range a.Grouping {
				if !known[l] {
					problems = append(problems, fmt.Errorf("nothing has the label %s that is grouped by", l))
				}
			}
		}
		return nil
	})
	return errors.Join(problems...)
}

// titles returns those of expressions, each once.
func titles(all []expression) []string {
	var names []string
	for _, e := range all {
		if !slices.Contains(names, e.title) {
			names = append(names, e.title)
		}
	}
	return names
}
