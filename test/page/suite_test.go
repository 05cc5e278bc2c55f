// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// patience is for what should take a moment, on a machine that is busy.
const patience = 30 * time.Second

var update = flag.Bool("update", false, "write the pictures of docs/images")

// world is what all tests share.
type world struct {
	plane   *harness.ControlPlane
	manager *harness.Process
	fake    *chattest.Server
	scripts sync.Map // of chattest.Script, by prompt
	// leases is the manager's own namespace.
	leases string
	// stream is the address of the endpoint, keyHash the hash of its key.
	stream, keyHash string
	chromium        string
}

var the = &world{}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	before := goleak.IgnoreCurrent()
	dir, err := os.MkdirTemp("", "chatrun-page-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := 1
	if err = the.start(context.Background(), dir); err == nil {
		code = m.Run()
	}
	if code != 0 {
		showLog(dir)
	}
	err = errors.Join(err, the.stop(), os.RemoveAll(dir))
	if err == nil {
		err = goleak.Find(before)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "page:", err)
		return 1
	}
	return code
}

func (w *world) start(ctx context.Context, dir string) error {
	for _, name := range []string{"node_modules/axe-core", "node_modules/playwright-core"} {
		if _, err := os.Stat(name); err != nil {
			return fmt.Errorf("%w: run `make test-page`, which installs what it needs", err)
		}
	}
	var err error
	if w.chromium, err = exec.LookPath("chromium"); err != nil {
		return err
	}
	if w.plane, err = harness.StartControlPlane(ctx); err != nil {
		return err
	}
	if w.leases, err = w.newNamespace(ctx, "page-manager"); err != nil {
		return err
	}
	for _, role := range []string{"chatrun_viewer", "chatrun_stream_reader"} {
		object := &rbacv1.ClusterRole{}
		raw, err := os.ReadFile(filepath.Join(harness.Root(), "config", "rbac", "users", role+".yaml"))
		if err == nil {
			err = yaml.UnmarshalStrict(raw, object)
		}
		if err == nil {
			err = w.plane.Client.Create(ctx, object)
		}
		if err != nil {
			return err
		}
	}
	w.fake = chattest.New(w.answer, chattest.Titles(chattest.Always(chattest.Answer("A Lighthouse Keeper's Day"))))
	return errors.Join(w.fake.Listen("127.0.0.1:0"), w.plane.AllowReplicas(ctx, w.leases), w.startManager(ctx, dir))
}

// answer answers each run as its test says.
func (w *world) answer(r chattest.Request) chattest.Response {
	script, ok := w.scripts.Load(r.LastUser)
	if !ok {
		return chattest.OpenAIErrorResponse(http.StatusBadRequest, "invalid_request_error", "", "no script")
	}
	return script.(chattest.Script)(r)
}

func (w *world) newNamespace(ctx context.Context, name string) (string, error) {
	return name, w.plane.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// user makes a ServiceAccount with these roles in the namespace, and returns a token
// of it.
func (w *world) user(ctx context.Context, namespace, name string, roles ...string) (string, error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	objects := []client.Object{account}
	for _, role := range roles {
		objects = append(objects, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
		})
	}
	for _, object := range objects {
		if err := w.plane.Client.Create(ctx, object); err != nil {
			return "", err
		}
	}
	request := &authenticationv1.TokenRequest{}
	if err := w.plane.Client.SubResource("token").Create(ctx, account, request); err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	return request.Status.Token, nil
}

func (w *world) startManager(ctx context.Context, dir string) error {
	authority, err := harness.NewAuthority("page")
	if err != nil {
		return err
	}
	pair, err := authority.Issue("localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	if w.keyHash, err = pair.KeyHash(); err != nil {
		return err
	}
	if err := pair.Write(dir); err != nil {
		return err
	}
	binary, err := harness.BuildManager(ctx, dir)
	if err != nil {
		return err
	}
	w.manager, err = harness.StartProcess(binary, w.plane.ManagerKubeconfig, w.leases, "page", filepath.Join(dir, managerLog),
		"--stream-local=false", "--stream-cert-dir", dir, "--stream-ticket-secret=")
	if err != nil {
		return err
	}
	_, w.stream, _ = strings.Cut(w.manager.Stream, "://")
	return harness.UntilOpen(ctx, w.stream, patience)
}

// managerLog is the name of the file with the manager's log, and shownLog how
// much of its end is shown when something failed.
const (
	managerLog = "manager.log"
	shownLog   = 8 << 10
)

func showLog(dir string) {
	log, err := os.ReadFile(filepath.Join(dir, managerLog))
	if err != nil {
		return // the manager was not started
	}
	fmt.Fprintf(os.Stderr, "the end of the manager's log:\n%s\n", log[max(len(log)-shownLog, 0):])
}

func (w *world) stop() error {
	var err error
	if w.manager != nil {
		err = w.manager.Interrupt(patience)
	}
	if w.fake != nil {
		w.fake.Close()
	}
	if w.plane != nil {
		err = errors.Join(err, w.plane.Stop())
	}
	return err
}
