// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// eventPrefix begins the name of a constant that names an event, and eventType
// is that constant's type.
const (
	eventPrefix = "Event"
	eventType   = "Name"
)

// pkg is what a package declares, in the order of its declarations.
type pkg struct {
	doc    string
	types  []*declared
	events []event
}

// declared is an exported type: a string type with its values, or a struct.
type declared struct {
	name, doc string
	values    []string
	isStruct  bool
	extends   []string
	fields    []field
}

type field struct {
	name, doc, typ string
	optional       bool
}

// event is a name in the `event:` line, and the type of its data.
type event struct{ name, doc, carries string }

// load reads the Go files of a directory, tests left out.
func load(dir fs.FS) (*pkg, error) {
	names, err := fs.Glob(dir, "*.go")
	if err != nil {
		return nil, err
	}
	p := &pkg{}
	set := token.NewFileSet()
	var groups []*ast.GenDecl
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		raw, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(set, name, raw, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if file.Doc != nil {
			p.doc = file.Doc.Text()
		}
		for _, decl := range file.Decls {
			// Functions are of no concern to a client in another language.
			if group, ok := decl.(*ast.GenDecl); ok {
				groups = append(groups, group)
			}
		}
	}
	// The types first: constants may stand before theirs.
	for _, tok := range []token.Token{token.TYPE, token.CONST} {
		for _, group := range groups {
			if group.Tok != tok {
				continue
			}
			for _, spec := range group.Specs {
				if err := p.add(spec, group); err != nil {
					return nil, fmt.Errorf("%s: %w", set.Position(spec.Pos()), err)
				}
			}
		}
	}
	return p, p.check()
}

func (p *pkg) add(spec ast.Spec, group *ast.GenDecl) error {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		return p.addType(spec, doc(spec.Doc, group))
	case *ast.ValueSpec:
		return p.addConstant(spec, doc(spec.Doc, group))
	default:
		return nil
	}
}

// doc is the comment of a declaration, which stands before its group if it is
// the only one in it.
func doc(own *ast.CommentGroup, group *ast.GenDecl) string {
	if own == nil && !group.Lparen.IsValid() {
		own = group.Doc
	}
	return own.Text() // of nil: nothing
}

func (p *pkg) addType(spec *ast.TypeSpec, doc string) error {
	if !spec.Name.IsExported() {
		return nil
	}
	d := &declared{name: spec.Name.Name, doc: doc}
	p.types = append(p.types, d)
	switch t := spec.Type.(type) {
	case *ast.Ident:
		if t.Name != "string" {
			return fmt.Errorf("type %s: only strings and structs are known", d.name)
		}
		return nil
	case *ast.StructType:
		d.isStruct = true
		for _, f := range t.Fields.List {
			if err := d.add(f); err != nil {
				return fmt.Errorf("type %s: %w", d.name, err)
			}
		}
		return nil
	default:
		return fmt.Errorf("type %s: only strings and structs are known", d.name)
	}
}

// add takes a field of a struct.
func (d *declared) add(f *ast.Field) error {
	var tag reflect.StructTag
	if f.Tag != nil {
		text, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			return err
		}
		tag = reflect.StructTag(text)
	}
	name, options, _ := strings.Cut(tag.Get("json"), ",")
	if len(f.Names) == 0 {
		base, ok := f.Type.(*ast.Ident)
		if !ok || name != "" {
			return errors.New("an embedded field has to be a type of the package, without a JSON name")
		}
		d.extends = append(d.extends, base.Name)
		return nil
	}
	if len(f.Names) > 1 || name == "" || name == "-" || !f.Names[0].IsExported() {
		return fmt.Errorf("field %s: one exported field with one JSON name is known", f.Names[0])
	}
	typ, err := typeOf(f.Type)
	if err != nil {
		return fmt.Errorf("field %s: %w", f.Names[0], err)
	}
	d.fields = append(d.fields, field{
		name: name, doc: f.Doc.Text(), typ: typ,
		optional: slices.ContainsFunc(strings.Split(options, ","), func(o string) bool { return o == "omitempty" || o == "omitzero" }),
	})
	return nil
}

// typeOf returns the TypeScript of a field's type.
func typeOf(e ast.Expr) (string, error) {
	switch e := e.(type) {
	case *ast.Ident:
		switch e.Name {
		case "string":
			return "string", nil
		case "bool":
			return "boolean", nil
		// A count above 2^53 would lose its last digits; ours are far from it.
		case "int", "int32", "int64", "float64":
			return "number", nil
		}
		if e.IsExported() {
			return e.Name, nil
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && x.Name == "time" && e.Sel.Name == "Time" {
			return "string", nil // RFC 3339
		}
	case *ast.ArrayType:
		if e.Len == nil {
			of, err := typeOf(e.Elt)
			return of + "[]", err
		}
	}
	return "", fmt.Errorf("a type that is not known (%T)", e)
}

// addConstant takes a value of a string type, and an event if it names one.
func (p *pkg) addConstant(spec *ast.ValueSpec, doc string) error {
	if !spec.Names[0].IsExported() {
		return nil
	}
	typ, ok := spec.Type.(*ast.Ident)
	if !ok || len(spec.Names) != 1 || len(spec.Values) != 1 {
		return fmt.Errorf("constant %s: one name, one type and one value are known", spec.Names[0])
	}
	literal, ok := spec.Values[0].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return fmt.Errorf("constant %s: only string literals are known", spec.Names[0])
	}
	value, err := strconv.Unquote(literal.Value)
	if err != nil {
		return err
	}
	d := p.find(typ.Name)
	if d == nil || d.isStruct {
		return fmt.Errorf("constant %s: %s is no string type", spec.Names[0], typ.Name)
	}
	d.values = append(d.values, value)
	if typ.Name == eventType {
		carries, named := strings.CutPrefix(spec.Names[0].Name, eventPrefix)
		if !named {
			return fmt.Errorf("constant %s: the name of an event begins with %s", spec.Names[0], eventPrefix)
		}
		p.events = append(p.events, event{value, doc, carries})
	}
	return nil
}

func (p *pkg) find(name string) *declared {
	for _, d := range p.types {
		if d.name == name {
			return d
		}
	}
	return nil
}

// property is what may stand unquoted for the name of a member.
var property = regexp.MustCompile(`^[A-Za-z_]\w*$`)

// check reports what is named and not declared.
func (p *pkg) check() error {
	if len(p.events) == 0 {
		return errors.New("no event found")
	}
	for _, e := range p.events {
		if !property.MatchString(e.name) {
			return fmt.Errorf("event %q: the name is to be a word", e.name)
		}
		if d := p.find(e.carries); d == nil || !d.isStruct {
			return fmt.Errorf("event %q: there is no struct %s", e.name, e.carries)
		}
	}
	for _, d := range p.types {
		for _, base := range d.extends {
			if b := p.find(base); b == nil || !b.isStruct {
				return fmt.Errorf("type %s: there is no struct %s to embed", d.name, base)
			}
		}
		for _, f := range d.fields {
			if !property.MatchString(f.name) {
				return fmt.Errorf("field %q of %s: the name is to be a word", f.name, d.name)
			}
			named := strings.TrimSuffix(f.typ, "[]")
			if named != "string" && named != "number" && named != "boolean" && p.find(named) == nil {
				return fmt.Errorf("field %s of %s: there is no type %s", f.name, d.name, named)
			}
		}
	}
	return nil
}
