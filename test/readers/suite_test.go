// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// world is what all tests share.
type world struct {
	plane     *harness.ControlPlane
	manager   *harness.Process
	fake      *chattest.Server
	scripts   sync.Map // of chattest.Script, by prompt
	namespace string

	// stream is the address of the endpoint, which serves HTTPS.
	stream string
	// trust, caFile and keyHash are for those who have to trust it: in Go, by a
	// file, and by the hash of its key.
	trust           *tls.Config
	caFile, keyHash string
	// certDir holds tls.crt and tls.key, for whoever else serves here.
	certDir string
	// token is of a user with the role chatrun-stream-reader and no other;
	// headerFile holds it for curl.
	token, headerFile string
	// page is where a page of another origin is served.
	page     string
	chromium string
}

var the = &world{}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	before := goleak.IgnoreCurrent()
	dir, err := os.MkdirTemp("", "chatrun-readers-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := 1
	if err = the.start(context.Background(), dir); err == nil {
		code = m.Run()
		summary()
	}
	if code != 0 {
		the.showLog(dir)
	}
	err = errors.Join(err, the.stop(), os.RemoveAll(dir))
	if err == nil {
		err = goleak.Find(before)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "readers:", err)
		return 1
	}
	return code
}

// prepared is what `make test-readers` makes before.
var prepared = []string{"../../web/dist/index.js", "node_modules/eventsource", "node_modules/playwright-core"}

func (w *world) start(ctx context.Context, dir string) error {
	for _, name := range prepared {
		if _, err := os.Stat(name); err != nil {
			return fmt.Errorf("%w: run `make test-readers`, which installs what they need", err)
		}
	}
	var err error
	if w.chromium, err = exec.LookPath("chromium"); err != nil {
		return err
	}
	if w.plane, err = harness.StartControlPlane(ctx); err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "readers-"}}
	if err := w.plane.Client.Create(ctx, namespace); err != nil {
		return err
	}
	w.namespace = namespace.Name
	return errors.Join(w.startProvider(ctx), w.makeTrust(dir), w.makeUser(ctx, dir), w.servePage(ctx), w.allowTickets(ctx), w.plane.AllowReplicas(ctx, w.namespace), w.startManager(ctx, dir))
}

// startProvider starts the fake one, which answers each run as its test says.
func (w *world) startProvider(ctx context.Context) error {
	w.fake = chattest.New(func(r chattest.Request) chattest.Response {
		script, ok := w.scripts.Load(r.LastUser)
		if !ok {
			return chattest.OpenAIErrorResponse(http.StatusBadRequest, "invalid_request_error", "", "no script")
		}
		return script.(chattest.Script)(r)
	})
	if err := w.fake.Listen("127.0.0.1:0"); err != nil {
		return err
	}
	return w.plane.Client.Create(ctx, &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "fake"},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: w.fake.URL() + "/v1", DefaultModel: "fake-1"},
	})
}

// makeTrust makes an authority, and a certificate for whoever serves here.
func (w *world) makeTrust(dir string) error {
	authority, err := harness.NewAuthority("readers")
	if err != nil {
		return err
	}
	pair, err := authority.Issue("stream", "127.0.0.1", "localhost")
	if err != nil {
		return err
	}
	if w.keyHash, err = pair.KeyHash(); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.PEM)
	w.trust = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	w.certDir, w.caFile = dir, filepath.Join(dir, "ca.crt")
	return errors.Join(os.WriteFile(w.caFile, authority.PEM, 0o600), pair.Write(dir))
}

// makeUser makes a ServiceAccount that may read streams in the namespace.
func (w *world) makeUser(ctx context.Context, dir string) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "reader"}}
	role := &rbacv1.ClusterRole{}
	if err := readRBAC("users/chatrun_stream_reader.yaml", role); err != nil {
		return err
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: w.namespace, Name: account.Name}},
	}
	for _, object := range []client.Object{account, role, binding} {
		if err := w.plane.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	request := &authenticationv1.TokenRequest{}
	if err := w.plane.Client.SubResource("token").Create(ctx, account, request); err != nil {
		return fmt.Errorf("asking for the reader's token: %w", err)
	}
	w.token, w.headerFile = request.Status.Token, filepath.Join(dir, "header")
	return os.WriteFile(w.headerFile, []byte("Authorization: Bearer "+w.token+"\n"), 0o600)
}

// allowTickets lets the manager keep the key of its tickets in the namespace.
func (w *world) allowTickets(ctx context.Context) error {
	role := &rbacv1.Role{}
	if err := readRBAC("stream_ticket_role.yaml", role); err != nil {
		return err
	}
	role.Namespace = w.namespace
	return errors.Join(w.plane.Client.Create(ctx, role), w.plane.Client.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: harness.ManagerUser}},
	}))
}

func readRBAC(file string, into any) error {
	raw, err := os.ReadFile(filepath.Join(harness.Root(), "config", "rbac", file))
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(raw, into)
}

// pages is the server of the page that reads in a browser.
var pages = &http.Server{ReadHeaderTimeout: patience}

func (w *world) servePage(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.page = "http://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("/web/", http.StripPrefix("/web/", http.FileServer(http.Dir("../../web/dist"))))
	mux.Handle("/", http.FileServer(http.Dir("page")))
	pages.Handler = mux
	go func() { _ = pages.Serve(listener) }() // until it is closed
	return nil
}

// managerLog is the name of the file with the manager's log, and shownLog how
// much of its end is shown when something failed.
const (
	managerLog = "manager.log"
	shownLog   = 8 << 10
)

func (w *world) showLog(dir string) {
	log, err := os.ReadFile(filepath.Join(dir, managerLog))
	if err != nil {
		return // the manager was not started
	}
	fmt.Fprintf(os.Stderr, "the end of the manager's log:\n%s\n", log[max(len(log)-shownLog, 0):])
}

func (w *world) startManager(ctx context.Context, dir string) error {
	binary, err := harness.BuildManager(ctx, dir)
	if err != nil {
		return err
	}
	w.manager, err = harness.StartProcess(binary, w.plane.ManagerKubeconfig, w.namespace, "readers", filepath.Join(dir, managerLog),
		"--stream-local=false", "--stream-cert-dir", w.certDir, "--stream-cors-allowed-origins", w.page,
		"--stream-ticket-secret", w.namespace+"/chatrun-stream-tickets")
	if err != nil {
		return err
	}
	_, w.stream, _ = strings.Cut(w.manager.Stream, "://")
	return harness.UntilOpen(ctx, w.stream, patience)
}

func (w *world) stop() error {
	var err error
	if w.manager != nil {
		err = w.manager.Interrupt(patience)
	}
	_ = pages.Close()
	if w.fake != nil {
		w.fake.Close()
	}
	if w.plane != nil {
		err = errors.Join(err, w.plane.Stop())
	}
	return err
}

// streamURL is where a run is read.
func streamURL(base, run, query string) string {
	return harness.StreamURL(base, the.namespace, run) + "?" + query
}
